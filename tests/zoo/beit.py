"""SimMIM and BEiT, v1 and v2, pre-trained and fine-tuned, against timm's Beit.

transformers' BeitModel agrees at square grids; its relative tables are square only, timm's are not.
"""

import functools
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy.interpolate import RectBivariateSpline
from torch import nn

# Must come before timm.
from experiments.benchmarks import torch_ops  # noqa: F401

# isort: split
from timm.models.beit import Beit, gen_relative_position_index

from tests.zoo import weights
from tests.zoo.specimen import Sizes, Specimen, StateDict, Traced
from tests.zoo.tracing import Trace, class_token, patch_grid
from tests.zoo.vit_models import keep_timm_block, timm_sizes

TABLE = "relative_position_bias_table"
INDEX = "relative_position_index"

_TINY = Sizes(width=36, depth=2, num_heads=6, patch_size=4, grid=5, mlp_dim=60)
_B16 = Sizes(width=768, depth=12, num_heads=12, patch_size=16, grid=14, mlp_dim=3072)


def write_simmim(path: Path, sizes: Sizes, seed: int) -> StateDict:
    """[`model`]: the encoder under `encoder.`, with a buffer, and the decoder that paints pixels."""
    state = pretrained(sizes, seed)
    generator = weights.seeded(seed + 2000)
    decoder = weights.linear("decoder.0", (3 * sizes.patch_size**2, sizes.width, 1, 1), generator)
    encoder = state | {f"rel_pos_bias.{INDEX}": index(sizes)} | mask_token(sizes, generator)
    torch.save({"model": weights.under("encoder", encoder) | decoder, **weights.training_state()}, path)
    return state


def write_beitv2(path: Path, sizes: Sizes, seed: int, *, container: Literal["model", "module"]) -> StateDict:
    """[`model`] or [`module`], without prefix, beside the head over visual words and the [CLS] bottleneck's blocks."""
    state = pretrained(sizes, seed)
    generator = weights.seeded(seed + 2000)
    dropped = {
        f"rel_pos_bias.{INDEX}": index(sizes),
        **mask_token(sizes, generator),
        **weights.linear("lm_head", (16, sizes.width), generator),
        **blocks("cls_pt_layers", 2, sizes, generator),
        **weights.norm("cls_pt_norm", sizes.width, generator),
    }
    torch.save({container: state | dropped, **(weights.training_state() if container == "model" else {})}, path)
    return state


def write_beit(path: Path, sizes: Sizes, seed: int) -> StateDict:
    """[`model`], without prefix, beside the head over visual words: BEiT v1 has no [CLS] bottleneck."""
    state = pretrained(sizes, seed)
    head = weights.linear("lm_head", (16, sizes.width), weights.seeded(seed + 2000))
    buffers = {f"rel_pos_bias.{INDEX}": index(sizes)}
    torch.save({"model": state | buffers | mask_token(sizes, weights.seeded(seed)) | head}, path)
    return state


def write_finetuned(path: Path, sizes: Sizes, seed: int) -> StateDict:
    """[`model`]: a table in every block, `fc_norm` in the place of `norm`, and a classifier."""
    generator = weights.seeded(seed)
    state = embedding(sizes, generator) | weights.norm("fc_norm", sizes.width, generator)
    state |= blocks("blocks", sizes.depth, sizes, generator)
    for i in range(sizes.depth):
        state[f"blocks.{i}.attn.{TABLE}"] = table(sizes, generator)
    buffers = {f"blocks.{i}.attn.{INDEX}": index(sizes) for i in range(sizes.depth)}
    torch.save({"model": state | buffers | weights.linear("head", (10, sizes.width), generator)}, path)
    return state


def pretrained(sizes: Sizes, seed: int) -> StateDict:
    """An encoder with one relative table for all blocks."""
    generator = weights.seeded(seed)
    return {
        **embedding(sizes, generator),
        f"rel_pos_bias.{TABLE}": table(sizes, generator),
        **blocks("blocks", sizes.depth, sizes, generator),
        **weights.norm("norm", sizes.width, generator),
    }


def embedding(sizes: Sizes, generator: torch.Generator) -> StateDict:
    """[CLS] and the patch embedding: there are no absolute positions."""
    return {
        "cls_token": weights.token((1, 1, sizes.width), generator),
        **weights.patch_embedding(sizes, generator),
    }


def mask_token(sizes: Sizes, generator: torch.Generator) -> StateDict:
    """The token that stood for masked patches."""
    return {"mask_token": weights.token((1, 1, sizes.width), generator)}


def blocks(name: str, depth: int, sizes: Sizes, generator: torch.Generator) -> StateDict:
    """Plain blocks with biases of queries and values alone, and what attention and MLP add scaled."""
    state = weights.blocks(name, depth, sizes.width, sizes.mlp_dim, generator)
    for i in range(depth):
        del state[f"{name}.{i}.attn.qkv.bias"]
        state |= weights.vector(f"{name}.{i}.attn.q_bias", sizes.width, generator)
        state |= weights.vector(f"{name}.{i}.attn.v_bias", sizes.width, generator)
        state |= weights.scale(f"{name}.{i}.gamma_1", sizes.width, generator)
        state |= weights.scale(f"{name}.{i}.gamma_2", sizes.width, generator)
    return state


def table(sizes: Sizes, generator: torch.Generator) -> torch.Tensor:
    """A relative table [(2 grid - 1)^2 + 3, heads], of the order of the logits it is added to."""
    return torch.randn((2 * sizes.grid - 1) ** 2 + 3, sizes.num_heads, generator=generator)


def index(sizes: Sizes) -> torch.Tensor:
    """The buffer that says which row of the table is between two tokens."""
    return gen_relative_position_index((sizes.grid, sizes.grid))


def trace(state: StateDict, sizes: Sizes, images: np.ndarray) -> Traced:
    """Everything of timm's Beit with the tables resampled; pre-trained or fine-tuned, by its last norm."""
    grid = patch_grid(images, sizes.patch_size)
    state = {
        key: resample_table(value, sizes.grid, grid) if key.endswith(TABLE) else value for key, value in state.items()
    }
    finetuned = "fc_norm.weight" in state
    model = Beit(
        **timm_sizes(sizes, images, 1e-6),
        use_abs_pos_emb=False,
        use_shared_rel_pos_bias=not finetuned,
        use_rel_pos_bias=finetuned,
        global_pool="avg" if finetuned else "token",
        init_values=0.1,
    )
    model.load_state_dict(state)
    traced = Trace()
    for i, block in enumerate(model.blocks):
        keep_timm_block(traced, i, block)
        for j, name in enumerate("qkv"):
            traced.keep((i, name), block.attn, functools.partial(_projection, block.attn, j))
    if finetuned:
        traced.keep((sizes.depth - 1, "global"), model, lambda _, output: output)
        return traced.run(model, images, model.fc_norm)
    return class_token(traced.run(model, images, model.norm), sizes.depth)


def _projection(attention: nn.Module, part: int, inputs: tuple[torch.Tensor, ...], _) -> torch.Tensor:
    # timm calls no module for these: it reads the weight of one and puts the biases together itself.
    bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    return nn.functional.linear(inputs[0], attention.qkv.weight, bias).chunk(3, dim=-1)[part]


def resample_table(values: torch.Tensor, native: int, grid: tuple[int, int]) -> torch.Tensor:
    """A relative table [(2 native - 1)^2 + 3, heads] for another grid (rows, columns), as BEiT's fine-tuning code does.

    The stored offsets are taken to stand in a geometric progression about zero that reaches the new range's ends; a
    bicubic spline through them is read at the new offsets. The official code knows square grids, and leaves those of the
    native side; here that holds for rows and columns by themselves. Three rows, those with [CLS], stay.
    """
    offsets, of_class = values[:-3], values[-3:]
    stored = offsets.reshape(2 * native - 1, 2 * native - 1, -1).double().numpy()
    wanted = [np.arange(1.0 - side, side) for side in grid]
    places = [progression(native, side) if side != native else np.arange(1.0 - native, native) for side in grid]
    heads = [RectBivariateSpline(*places, plane)(*wanted) for plane in np.moveaxis(stored, -1, 0)]
    return torch.cat([torch.from_numpy(np.stack(heads, axis=-1)).float().flatten(0, 1), of_class])


def progression(native: int, side: int) -> np.ndarray:
    """Places [2 native - 1] of stored offsets: ..., -1 - q, -1, 0, 1, 1 + q, 1 + q + q^2, ..., the last about side - 1.

    q is found by bisection of [1.01, 1.5] down to 1e-6; where no such q reaches the end, it is about the nearer bound.
    """
    left, right = 1.01, 1.5
    while right - left > 1e-6:
        q = (left + right) / 2
        if sum(q**i for i in range(native - 1)) > side - 1:
            right = q
        else:
            left = q
    positive = [sum(q**i for i in range(n)) for n in range(1, native)]
    return np.array([-place for place in reversed(positive)] + [0.0] + positive)


def _specimen(name, family, write, arch: str | None = "vitb16") -> Specimen:
    return Specimen(
        name=name,
        family=family,
        tiny=_TINY,
        arch=arch,
        full=None if arch is None else _B16,
        file="checkpoint.pth",
        write=write,
        trace=trace,
        oracle="timm Beit",
    )


SPECIMENS = (
    _specimen("simmim", "simmim", write_simmim),
    _specimen("simmim_finetuned", "simmim_finetuned", write_finetuned),
    _specimen("beit", "beit", write_beit),
    _specimen("beit_finetuned", "beit_finetuned", write_finetuned, arch="vitb16_ft22k"),
    _specimen("beitv2", "beitv2", functools.partial(write_beitv2, container="model")),
    _specimen("beitv2_module", "beitv2", functools.partial(write_beitv2, container="module"), arch=None),
    _specimen("beitv2_finetuned", "beitv2_finetuned", write_finetuned, arch="vitb16_ft1k"),
)
