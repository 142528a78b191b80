"""How attention moves information, by block and head (Figs 3 to 6 and 10 to 13, Table 3)."""

import functools
from collections.abc import Sequence

import numpy as np

from experiments.aggregate.stream import fetched
from experiments.aggregate.workbench import NO_CLS, NO_IMAGE, Workbench
from experiments.measuring import Measured, Part
from vitprobe_jax.features.attention_flow import AttentionFlow, attention_flow
from vitprobe_jax.features.store import Cell


def measure(bench: Workbench, cell: Cell, cells: Sequence[Cell]) -> Measured:
    """The four statistics of every block, of each head and of all; of the held-out images, as at evaluation.

    Numbers of images and heads are all that is kept. A mean over heads has as its deviation that of the images' own means.
    `aggregation_entropy` is the entropy of [CLS] averaged over all blocks, as in Table 3 (Appendix C.1); its row has no
    layer. Models without [CLS] have the two statistics of patches alone; their aggregation is the mean of patches, with
    the entropy of equal weights, which is what the paper prints for them in Table 3.
    """
    collected: dict[str, list[np.ndarray]] = {name: [] for name in AttentionFlow._fields}
    for placed in bench.held_out(PART.name):
        flow = attention_flow(bench.backbone, placed.images, bench.mesh, dtype=bench.config.dtype)
        for name, of_batch in flow._asdict().items():
            if of_batch is not None:
                collected[name].append(fetched(of_batch)[placed.valid])
    found = {name: np.concatenate(parts) for name, parts in collected.items() if parts}
    row = functools.partial(bench.row, PART.name)
    if not len(found["patch_entropy"]):
        return Measured([row(None, measure="patch_entropy", count=0, skipped=NO_IMAGE)])
    registers = bench.backbone.spec.config.num_registers
    if registers:
        bench.folder.note(f"{bench.backbone.spec.name}: its {registers} registers take no part in any sum over patches")
    num_patches = bench.grid[0] * bench.grid[1]
    bound, count = float(np.log(num_patches)), len(found["patch_entropy"])
    rows = [row(None, measure="entropy_bound", value=bound, count=num_patches)]
    for name in AttentionFlow._fields:
        if name not in found:
            rows.append(row(None, measure=name, count=0, skipped=NO_CLS))
            continue
        for layer in range(found[name].shape[1]):
            of_images = found[name][:, layer].astype(np.float64)
            said = functools.partial(row, None, layer=layer, measure=name, count=count)
            rows.append(said(setting="all heads", **_mean(of_images.mean(axis=1))))
            rows += [
                said(setting="head", level=float(head), **_mean(of_images[:, head]))
                for head in range(of_images.shape[1])
            ]
    aggregation = functools.partial(row, None, measure="aggregation_entropy", count=count)
    if "cls_entropy" in found:
        rows.append(
            aggregation(setting="all blocks", **_mean(found["cls_entropy"].astype(np.float64).mean(axis=(1, 2))))
        )
    else:
        rows.append(aggregation(setting="no [CLS]", value=bound))
    return Measured(rows)


def _mean(of_images: np.ndarray) -> dict[str, float]:
    """Mean over images, with its deviation where there are several."""
    found = {"value": float(of_images.mean())}
    return found | ({"deviation": float(of_images.std(ddof=1))} if len(of_images) > 1 else {})


PART = Part("attention", "images", measure, once="x2_raw")
