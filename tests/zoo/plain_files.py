"""Official files of the families with plain keys: containers, prefixes, and what stands beside the encoder.

Every function writes random weights of the seed and returns those that the model uses, under the file's own keys.
"""

import dataclasses
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.checkpoints_convert import official_files
from tests.zoo import weights
from tests.zoo.specimen import Sizes, StateDict


def write_dino(path: Path, sizes: Sizes, seed: int) -> StateDict:
    """Flat, the backbone alone."""
    return official_files.write_dino(path, **dataclasses.asdict(sizes), seed=seed)


def write_mae(path: Path, sizes: Sizes, seed: int, *, decoder: dict | None = None) -> StateDict:
    """[`model`]; with `decoder`, a full checkpoint."""
    return official_files.write_mae(path, **dataclasses.asdict(sizes), decoder=decoder, seed=seed)


def write_mae_finetuned(path: Path, sizes: Sizes, seed: int) -> StateDict:
    """[`model`]: `fc_norm` in the place of `norm`, and a classifier; positions, sine-cosine at first, were trained."""
    state = weights.plain(sizes, seed)
    state = {key.replace("norm.", "fc_norm.") if key.startswith("norm.") else key: state[key] for key in state}
    torch.save({"model": state | _head("head", sizes, seed)}, path)
    return state


def write_maskfeat(path: Path, sizes: Sizes, seed: int, *, split: bool) -> StateDict:
    """[`model_state`] beside a config; the last norm stands in the prediction head, q, k and v are fused or `split`."""
    state = {}
    for key, value in weights.plain(sizes, seed).items():
        key = f"pred_head.transforms.0.0.{key.removeprefix('norm.')}" if key.startswith("norm.") else key
        if split and ".qkv." in key:
            state |= {key.replace("qkv", name): part.clone() for name, part in zip("qkv", value.chunk(3), strict=True)}
        else:
            state[key] = value
    generator = weights.seeded(seed)
    dropped = {
        "mask_token": weights.token((1, 1, sizes.width), generator),
        **weights.linear("pred_head.projections.0", (108, sizes.width), generator),
        "hogs.0.weight_x": torch.randn(3, 1, 3, 3, generator=generator),
        "hogs.0.weight_y": torch.randn(3, 1, 3, 3, generator=generator),
        "hogs.0.gkern": torch.randn(16, 16, generator=generator),
    }
    training = {"epoch": 1599, "optimizer_state": weights.training_state()["optimizer"], "cfg": "MODEL:\n  DEPTH: 12\n"}
    torch.save({"model_state": state | dropped, **training}, path)
    return state


def write_mocov3(path: Path, sizes: Sizes, seed: int) -> StateDict:
    """[`state_dict`] of both encoders and the predictor; the rows' half of the positions first."""
    half = sizes.width // 2
    columns_first = weights.sincos_positions(sizes.width, sizes.grid)
    positions = torch.cat([columns_first[..., half:], columns_first[..., :half]], dim=-1)
    state = weights.plain(sizes, seed, positions=positions)
    momentum = weights.plain(sizes, seed + 1000, positions=positions)
    generator = weights.seeded(seed)
    head = weights.linear("head.0", (16, sizes.width), generator, bias=False) | weights.norm("head.1", 16, generator)
    predictor = weights.linear("predictor.0", (16, 8), generator, bias=False)
    checkpoint = {
        **weights.under("base_encoder", state | head),
        **weights.under("momentum_encoder", momentum | head),
        **predictor,
    }
    training = {"epoch": 300, "arch": "vit_small", "optimizer": weights.training_state()["optimizer"]}
    torch.save({"state_dict": weights.under("module", checkpoint), **training}, path)
    return state


def write_msn(path: Path, sizes: Sizes, seed: int) -> StateDict:
    """[`target_encoder`], whose weights are returned, and [`encoder`]; each with a projection head, beside prototypes."""
    state, online = weights.plain(sizes, seed), weights.plain(sizes, seed + 1000)
    generator = weights.seeded(seed)
    head = weights.linear("fc.fc1", (16, sizes.width), generator) | weights.norm("fc.bn1", 16, generator)
    head["fc.bn1.num_batches_tracked"] = torch.tensor(100)
    encoders = {
        name: weights.under("module", encoder | head)
        for name, encoder in (("target_encoder", state), ("encoder", online))
    }
    prototypes = torch.randn(8, 16, generator=generator)
    training = {"opt": weights.training_state()["optimizer"], "epoch": 800, "batch_size": 16, "lr": 1e-3}
    torch.save(encoders | {"prototypes": prototypes} | training, path)
    return state


def write_ibot(path: Path, sizes: Sizes, seed: int) -> StateDict:
    """[`state_dict`] without prefix, with the token that stood for masked patches."""
    state = weights.plain(sizes, seed)
    masked = weights.token((1, sizes.width), weights.seeded(seed))
    torch.save({"state_dict": state | {"masked_embed": masked}}, path)
    return state


def write_deit(path: Path, sizes: Sizes, seed: int) -> StateDict:
    """[`model`] with its classifier."""
    state = weights.plain(sizes, seed)
    torch.save({"model": state | _head("head", sizes, seed)}, path)
    return state


def write_deit_distilled(path: Path, sizes: Sizes, seed: int) -> StateDict:
    """[`model`] with two classifiers; the distillation token has its own position, after [CLS]'s."""
    generator = weights.seeded(seed + 1)
    positions = weights.token((1, 2 + sizes.grid**2, sizes.width), generator)
    state = weights.plain(sizes, seed, positions=positions)
    state["dist_token"] = weights.token((1, 1, sizes.width), generator)
    torch.save({"model": state | _head("head", sizes, seed) | _head("head_dist", sizes, seed + 1)}, path)
    return state


def write_augreg(path: Path, sizes: Sizes, seed: int) -> StateDict:
    """Flat safetensors with the classifier."""
    state = weights.plain(sizes, seed)
    save_file(state | _head("head", sizes, seed), path)
    return state


def write_scalemae(path: Path, sizes: Sizes, seed: int) -> StateDict:
    """[`model`] with the stored positions that nothing reads, a decoder and a feature pyramid."""
    stored = weights.sincos_positions(sizes.width, sizes.grid)
    state = {key: value for key, value in weights.plain(sizes, seed).items() if key != "pos_embed"}
    generator = weights.seeded(seed)
    dropped = {
        "pos_embed": stored,
        "mask_token": weights.token((1, 1, 8), generator),
        "mask_token_decoder": weights.token((1, 1, 8), generator),
        "decoder_pos_embed": weights.token((1, 1 + sizes.grid**2, 8), generator),
        **weights.linear("decoder_embed", (8, sizes.width), generator),
        **weights.blocks("decoder_blocks", 1, 8, 16, generator),
        **weights.norm("decoder_norm", 8, generator),
        **weights.linear("fpn.fpn1.0", (8, 8, 2, 2), generator),
        **weights.linear("fcn_high.0", (8, 8, 3, 3), generator),
        **weights.linear("fcn_low.0", (8, 8, 3, 3), generator),
    }
    torch.save({"model": state | dropped, **weights.training_state()}, path)
    return state


def _head(name: str, sizes: Sizes, seed: int) -> StateDict:
    return weights.linear(name, (10, sizes.width), weights.seeded(seed + 2000))
