"""Files as authors' scripts, timm, PyTorch Lightning and wrappers leave them, of the specimens' small random weights."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from tests.checkpoints_convert.official import Official
from tests.zoo import weights
from tests.zoo.specimen import StateDict

PLAIN = ("dino", "ibot", "msn", "deit", "augreg")
"""Families that a headless ViT with trained positions may be of."""

WITH_CLASSIFIER = ("mae_finetuned", "deit", "augreg")
"""Those that one with a linear classifier may be of."""


@dataclasses.dataclass(frozen=True)
class OfficialLayout:
    """One way to save the weights of a specimen.

    Attributes:
        specimen: whose weights they are.
        family: right `--family`.
        contents: makes what is saved from the specimen's file.
        auto: families that the file may be of by what it tells; one where it is recognised.
        options: further arguments of `convert`.
    """

    specimen: str
    family: str
    contents: Callable[[Official], dict[str, Any]]
    auto: tuple[str, ...]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def under(prefix: str, state: StateDict) -> StateDict:
    """The same tensors with a prefix."""
    return {prefix + key: value for key, value in state.items()}


def classifier(file: Official) -> StateDict:
    """A linear classifier, as timm calls it."""
    return weights.linear("head", (10, file.sizes.width), weights.seeded(5))


def other(state: StateDict) -> StateDict:
    """Weights of a second model."""
    return {key: value + 1 for key, value in state.items()}


def training() -> dict[str, Any]:
    """What training scripts save beside their weights."""
    return weights.training_state() | {"lr_scheduler": {"last_epoch": 3}}


def dino_heads(*names: str) -> StateDict:
    """Projection heads of DINO, iBOT, DINOv2 or DINOv3."""
    return {f"{name}.weight": torch.randn(8, 8, generator=weights.seeded(1)) for name in names}


def chunked(state: StateDict, blocks_per_chunk: int) -> StateDict:
    """DINOv2's `block_chunks`: a number of the chunk, and then the number that the block has in the model."""
    renamed = {}
    for key, value in state.items():
        first, *rest = key.split(".")
        chunk = [str(int(rest[0]) // blocks_per_chunk)] if first == "blocks" else []
        renamed[".".join([first, *chunk, *rest])] = value
    return renamed


def fsdp(state: StateDict) -> StateDict:
    """FSDP around the model and around every block, whose checkpointing has a wrapper of its own."""
    inside = "._fsdp_wrapped_module._checkpoint_wrapped_module."
    renamed = {}
    for key, value in state.items():
        parts = key.split(".", 2)
        wrapped = f"{parts[0]}.{parts[1]}{inside}{parts[2]}" if parts[0] == "blocks" else key
        renamed[f"_fsdp_wrapped_module.{wrapped}"] = value
    return renamed


def dino_teacher(file: Official) -> dict[str, Any]:
    """main_dino.py: both networks with heads, the student under DistributedDataParallel."""
    head = dino_heads("head.mlp.0", "head.last_layer")
    student = under("module.", under("backbone.", other(file.state)) | head)
    return {"student": student, "teacher": under("backbone.", file.state) | head, **training()}


def ibot_training(file: Official) -> dict[str, Any]:
    """main_ibot.py: heads have a part for patches; the student alone has the token of masked patches."""
    head = dino_heads("head.mlp.0", "head.last_layer", "head.last_layer2")
    masked = {"masked_embed": weights.token((1, file.sizes.width), weights.seeded(3))}
    student = under("module.", under("backbone.", other(file.state) | masked) | head)
    return {"student": student, "teacher": under("backbone.", file.state) | head, **training()}


def mae_linear_probe(file: Official) -> dict[str, Any]:
    """main_linprobe.py: the classifier is a norm of the batch and a linear map."""
    width = file.sizes.width
    norm = {f"head.0.running_{name}": torch.ones(width) for name in ("mean", "var")}
    norm["head.0.num_batches_tracked"] = torch.tensor(7)
    return {"model": file.state | norm | under("head.1.", {"weight": torch.ones(10, width), "bias": torch.ones(10)})}


def scalemae_finetuned(file: Official, norm: str) -> dict[str, Any]:
    """main_finetune.py of Scale-MAE: stored positions that nothing reads, a classifier."""
    state = {key.replace("norm.", f"{norm}.") if key.startswith("norm.") else key: v for key, v in file.state.items()}
    stored = {"pos_embed": weights.sincos_positions(file.sizes.width, file.sizes.grid)}
    return {"model": state | stored | classifier(file), **training()}


def lightning(file: Official) -> dict[str, Any]:
    """PyTorch Lightning's checkpoint of a module that holds the encoder as `model.backbone`."""
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": under("model.backbone.", file.state),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "hyper_parameters": argparse.Namespace(lr=1e-3),
    }


LAYOUTS: dict[str, OfficialLayout] = {
    "dino, training": OfficialLayout("dino", "dino", dino_teacher, ("dino",)),
    "dino, DistributedDataParallel": OfficialLayout(
        "dino", "dino", lambda f: under("module.backbone.", f.state), PLAIN
    ),
    "ibot, training": OfficialLayout("ibot", "ibot", ibot_training, ("ibot",)),
    "ibot, teacher": OfficialLayout("ibot", "ibot", lambda f: {"state_dict": f.state}, PLAIN),
    "msn without module.": OfficialLayout(
        "msn",
        "msn",
        lambda f: {"target_encoder": {k.removeprefix("module."): v for k, v in f.tensors.items()}},
        ("msn",),
    ),
    "msn without head": OfficialLayout(
        "msn", "msn", lambda f: {"target_encoder": under("module.", f.state), "epoch": 1}, PLAIN
    ),
    "mocov3, convert_to_deit.py": OfficialLayout("mocov3", "mocov3", lambda f: {"model": f.state}, ("mocov3",)),
    "mocov3, main_lincls.py": OfficialLayout(
        "mocov3",
        "mocov3",
        lambda f: {"state_dict": under("module.", f.state | classifier(f)), **training()},
        ("mocov3",),
    ),
    "mae, DistributedDataParallel": OfficialLayout(
        "mae", "mae", lambda f: {"model": under("module.", f.state)}, ("mae",)
    ),
    "mae, main_linprobe.py": OfficialLayout("mae", "mae", mae_linear_probe, ("mae",)),
    "mae, fine-tuned on [CLS]": OfficialLayout(
        "deit", "mae_finetuned", lambda f: {"model": f.state | classifier(f), **training()}, WITH_CLASSIFIER
    ),
    "simmim, DistributedDataParallel": OfficialLayout(
        "simmim", "simmim", lambda f: {"model": under("module.", f.tensors)}, ("simmim",)
    ),
    "simmim, encoder": OfficialLayout(
        "simmim", "simmim", lambda f: {"model": under("encoder.", f.state)}, ("simmim", "beit", "beitv2")
    ),
    "ijepa without module.": OfficialLayout("ijepa", "ijepa", lambda f: {"target_encoder": f.state}, ("ijepa",)),
    "capi without backbone.": OfficialLayout("capi", "capi", lambda f: f.state, ("capi",)),
    "scalemae, fine-tuned": OfficialLayout(
        "scalemae", "scalemae", lambda f: scalemae_finetuned(f, "fc_norm"), ("scalemae", "mae_finetuned")
    ),
    "scalemae, fine-tuned on [CLS]": OfficialLayout(
        "scalemae", "scalemae", lambda f: scalemae_finetuned(f, "norm"), ("scalemae", "mae_finetuned")
    ),
    "dinov2, training": OfficialLayout(
        "dinov2",
        "dinov2",
        lambda f: {"teacher": under("backbone.", f.state) | dino_heads("dino_head.mlp.0")},
        ("dinov2",),
    ),
    "dinov2, chunks": OfficialLayout(
        "dinov2",
        "dinov2",
        lambda f: {"teacher": under("backbone.", chunked(f.state, 1)) | dino_heads("dino_head.mlp.0")},
        ("dinov2",),
    ),
    "dinov2, FSDP and chunks": OfficialLayout(
        "dinov2_reg4", "dinov2", lambda f: {"teacher": under("backbone.", fsdp(chunked(f.state, 2)))}, ("dinov2",)
    ),
    "dinov2, torch.compile": OfficialLayout(
        "dinov2_reg4_g", "dinov2", lambda f: {"model": under("_orig_mod.module.", f.state)}, ("dinov2",)
    ),
    "dinov3, training": OfficialLayout(
        "dinov3",
        "dinov3",
        lambda f: {"teacher": under("backbone.", f.tensors) | dino_heads("dino_head.mlp.0", "ibot_head.mlp.0")},
        ("dinov3",),
    ),
    "deit, training": OfficialLayout(
        "deit",
        "deit",
        lambda f: {"model": f.tensors, "model_ema": other(f.tensors), **training()},
        WITH_CLASSIFIER,
    ),
    "deit, moving average": OfficialLayout(
        "deit",
        "deit",
        lambda f: {"model": other(f.tensors), "model_ema": f.tensors, **training()},
        WITH_CLASSIFIER,
        {"container": "model_ema"},
    ),
    "timm, training": OfficialLayout(
        "augreg",
        "augreg",
        lambda f: {"arch": "vit", "state_dict": other(f.tensors), "state_dict_ema": dict(f.tensors), **training()},
        WITH_CLASSIFIER,
    ),
    "PyTorch Lightning": OfficialLayout("dinov2_reg4", "dinov2", lightning, ("dinov2",)),
    "torchvision, DistributedDataParallel": OfficialLayout(
        "torchvision", "torchvision", lambda f: {"model": under("module.", f.tensors), **training()}, ("torchvision",)
    ),
    "maskfeat, DistributedDataParallel": OfficialLayout(
        "maskfeat", "maskfeat", lambda f: {"model_state": under("module.", f.tensors)}, ("maskfeat",)
    ),
}
"""By name."""
