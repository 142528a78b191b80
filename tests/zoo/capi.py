"""CAPI against a torch implementation of its own: no other library has the model.

As plainly as it goes: tokens stand where their patch does in a unit square, registers on its border, and queries and keys
are turned by angles linear in the two coordinates.
"""

import collections
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.zoo import weights
from tests.zoo.specimen import Sizes, Specimen, StateDict, Traced
from tests.zoo.tracing import Trace, patch_grid
from tests.zoo.transformers_layers import filled

EPSILON = 1e-5
REGISTERS = 16


def write(path: Path, sizes: Sizes, seed: int) -> StateDict:
    """A released file: encoder and decoder under `backbone.`, with the head of the training beside.

    The frequencies are learned and stored, so here they are any numbers, other ones in every block.
    """
    generator = weights.seeded(seed)
    state = {
        "mask_token": weights.token((1, sizes.width), generator),
        "registers": weights.token((1, REGISTERS, sizes.width), generator),
        **weights.patch_embedding(sizes, generator, "patch_embed"),
        **_blocks("encoder.blocks", sizes.depth, sizes, generator),
        **_blocks("decoder.blocks", decoder_depth(sizes), sizes, generator),
    }
    head = {
        "head.last_layer.weight_g": torch.ones(8, 1),
        "head.last_layer.weight_v": weights.token((8, sizes.width), generator),
    }
    torch.save(weights.under("backbone", state) | head, path)
    return state


def decoder_depth(sizes: Sizes) -> int:
    """Blocks of the predictor: 12 beside an encoder of 24."""
    return max(2, sizes.depth // 2)


def trace(state: StateDict, sizes: Sizes, images: np.ndarray) -> Traced:
    """All intermediates, rotated queries and keys, and what the predictor says of all patches together."""
    model = filled(lambda: Capi(sizes, *patch_grid(images, sizes.patch_size)), state)
    traced = Trace()
    for i, block in enumerate(model.encoder["blocks"]):
        attention, norm = block.residual1["fn"], block.residual2["norm"]
        for name in "qkv":
            traced.keep((i, name), getattr(attention, f"{name}_proj"), lambda _, output: output)
        for j, name in enumerate(("attn", "q_rotated", "k_rotated"), start=1):
            traced.keep((i, name), attention, lambda _, output, j=j: output[j])
        traced.keep((i, "x1"), norm, lambda inputs, _: inputs[0])
        traced.keep((i, "xn"), norm, lambda _, output: output)
        traced.keep((i, "x2_raw"), block, lambda _, output: output)
    traced.keep((sizes.depth - 1, "global"), model, lambda _, output: output)
    return traced.run(model, images, model.enc_norm)


class Capi(nn.Module):
    """The model at one patch grid; returns the global representation [B, D] of images [B, 3, height, width]."""

    def __init__(self, sizes: Sizes, rows: int, columns: int):
        super().__init__()
        self.rows, self.columns = rows, columns
        self.mask_token = nn.Parameter(torch.empty(1, sizes.width))
        self.registers = nn.Parameter(torch.empty(1, REGISTERS, sizes.width))
        self.patch_embed = nn.Conv2d(3, sizes.width, sizes.patch_size, stride=sizes.patch_size)
        self.encoder = nn.ModuleDict({"blocks": nn.ModuleList(_Block(sizes) for _ in range(sizes.depth))})
        self.decoder = nn.ModuleDict({"blocks": nn.ModuleList(_Block(sizes) for _ in range(decoder_depth(sizes)))})
        self.enc_norm = nn.RMSNorm(sizes.width, eps=EPSILON, elementwise_affine=False)
        self.dec_norm = nn.RMSNorm(sizes.width, eps=EPSILON, elementwise_affine=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.registers.expand(len(images), -1, -1), patches], dim=1)
        where_patches = patch_coordinates(self.rows, self.columns)
        where = torch.cat([register_coordinates(where_patches), where_patches])
        for block in self.encoder["blocks"]:
            x = block(x, where, None, where)
        queries = self.mask_token.expand(len(images), self.rows * self.columns, -1)
        # One block of the predictor, of a model trained with more: what the official evaluation calls global.
        predicted = self.decoder["blocks"][0](queries, where_patches, self.enc_norm(x), where)
        return self.dec_norm(predicted).mean(dim=1)


class _Block(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        mlp = collections.OrderedDict(
            fc1=nn.Linear(sizes.width, sizes.mlp_dim, bias=False),
            gelu=nn.GELU(),
            fc2=nn.Linear(sizes.mlp_dim, sizes.width, bias=False),
        )
        self.residual1 = nn.ModuleDict({"norm": nn.RMSNorm(sizes.width, eps=EPSILON), "fn": _Attention(sizes)})
        self.residual2 = nn.ModuleDict({"norm": nn.RMSNorm(sizes.width, eps=EPSILON), "fn": nn.Sequential(mlp)})

    def forward(
        self, x: torch.Tensor, where: torch.Tensor, context: torch.Tensor | None, where_context: torch.Tensor
    ) -> torch.Tensor:
        """Attends to `context`, or to itself; coordinates are [T, 2]."""
        normed = self.residual1["norm"](x)
        x = x + self.residual1["fn"](normed, where, normed if context is None else context, where_context)[0]
        return x + self.residual2["fn"](self.residual2["norm"](x))


class _Attention(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.num_heads = sizes.num_heads
        for name in ("q_proj", "k_proj", "v_proj", "proj"):
            setattr(self, name, nn.Linear(sizes.width, sizes.width, bias=False))
        self.rope = nn.Module()
        self.rope.freqs = nn.Parameter(torch.empty(2, sizes.width // sizes.num_heads))

    def forward(
        self, x: torch.Tensor, where: torch.Tensor, context: torch.Tensor, where_context: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The output, then attention [B, H, T, T], rotated queries and rotated keys [B, T, D]."""
        q = rotate(self._heads(self.q_proj(x)), where, self.rope.freqs)
        k = rotate(self._heads(self.k_proj(context)), where_context, self.rope.freqs)
        v = self._heads(self.v_proj(context))
        attention = torch.einsum("bqhd,bkhd->bhqk", q / q.shape[-1] ** 0.5, k).softmax(dim=-1)
        mixed = torch.einsum("bhqk,bkhd->bqhd", attention, v)
        return self.proj(mixed.flatten(2)), attention, q.flatten(2), k.flatten(2)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.num_heads, -1))


def rotate(x: torch.Tensor, where: torch.Tensor, freqs: torch.Tensor) -> torch.Tensor:
    """Turns x [B, T, H, d] at coordinates [T, 2]: feature i of the first half pairs with feature i of the second.

    Where both of a pair have the same frequencies it is a rotation; learned ones need not, and each follows its own.
    """
    angle = (where[:, :1] * freqs[0] + where[:, 1:] * freqs[1])[:, None]
    first, second = x.chunk(2, dim=-1)
    angle_first, angle_second = angle.chunk(2, dim=-1)
    return torch.cat(
        [
            first * angle_first.cos() - second * angle_first.sin(),
            second * angle_second.cos() + first * angle_second.sin(),
        ],
        dim=-1,
    )


def patch_coordinates(rows: int, columns: int) -> torch.Tensor:
    """(row, column) of every patch [P, 2], row-major: the first at 0, the last at 1, a lone one at 0."""
    row, column = torch.linspace(0, 1, rows), torch.linspace(0, 1, columns)
    return torch.stack([row.repeat_interleave(columns), column.repeat(rows)], dim=1)


def register_coordinates(patches: torch.Tensor) -> torch.Tensor:
    """(row, column) of the registers [REGISTERS, 2]: evenly along the border of what the patches [P, 2] span.

    Counter-clockwise from the first patch's corner with rows pointing down: along the left, bottom, right and top side.
    """
    along = [4 * i / REGISTERS for i in range(REGISTERS // 4)]
    border = torch.tensor(
        [(c, 0.0) for c in along]
        + [(1.0, c) for c in along]
        + [(1 - c, 1.0) for c in along]
        + [(0.0, 1 - c) for c in along]
    )
    low, high = patches.min(dim=0).values, patches.max(dim=0).values
    return low + border * (high - low)


def _blocks(name: str, depth: int, sizes: Sizes, generator: torch.Generator) -> StateDict:
    width, mlp_dim = sizes.width, sizes.mlp_dim
    state: StateDict = {}
    for i in range(depth):
        attention, mlp = f"{name}.{i}.residual1", f"{name}.{i}.residual2"
        state |= weights.norm(f"{attention}.norm", width, generator, bias=False)
        for part in ("q_proj", "k_proj", "v_proj", "proj"):
            state |= weights.linear(f"{attention}.fn.{part}", (width, width), generator, bias=False)
        state[f"{attention}.fn.rope.freqs"] = 3 * torch.randn(2, width // sizes.num_heads, generator=generator)
        state |= weights.norm(f"{mlp}.norm", width, generator, bias=False)
        state |= weights.linear(f"{mlp}.fn.fc1", (mlp_dim, width), generator, bias=False)
        state |= weights.linear(f"{mlp}.fn.fc2", (width, mlp_dim), generator, bias=False)
    return state


SPECIMENS = (
    Specimen(
        name="capi",
        family="capi",
        tiny=Sizes(width=36, depth=2, num_heads=3, patch_size=4, grid=5, mlp_dim=100),
        arch="vitl14_in1k",
        full=Sizes(width=1024, depth=24, num_heads=16, patch_size=14, grid=16, mlp_dim=4096),
        file="capi_vitl14_in1k.pth",
        write=write,
        trace=trace,
        oracle="a torch implementation in the tests",
        epsilon=EPSILON,
    ),
)
