"""What transformers' ViTs have in common: how their layers are hooked, and how official keys become theirs."""

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from tests.zoo.specimen import StateDict
from tests.zoo.tracing import Trace

FUSED = {"attn.qkv": ("attn.q", "attn.k", "attn.v"), "mlp.w12": ("mlp.gate", "mlp.up")}
"""Maps that official files store as one; rows in this order."""


def keep_layers(trace: Trace, layers: Iterable[nn.Module], *, second_norm: str) -> None:
    """Hooks every intermediate of every layer; `second_norm` is what the model calls the norm before the MLP."""
    for i, layer in enumerate(layers):
        norm = getattr(layer, second_norm)
        for name in "qkv":
            trace.keep((i, name), getattr(layer.attention, f"{name}_proj"), lambda _, output: output)
        trace.keep((i, "attn"), layer.attention, lambda _, output: output[1])
        trace.keep((i, "x1"), norm, lambda inputs, _: inputs[0])
        trace.keep((i, "xn"), norm, lambda _, output: output)
        trace.keep((i, "x2_raw"), layer, lambda _, output: output)


def renamed(state: StateDict, names: Mapping[str, str]) -> StateDict:
    """The tensors with fused maps split (views, not copies) and every pattern of `names` replaced, in order."""
    return {_rename(key, names): value for key, value in _split(state).items()}


def filled(make: Callable[[], nn.Module], state: StateDict) -> nn.Module:
    """The model that `make` builds, with the state's own tensors as its parameters.

    It is built without memory: at the full sizes transformers' random start takes longer than the test itself. Buffers
    that no state dict holds stay without memory too.
    """
    with torch.device("meta"):
        model = make()
    model.load_state_dict(state, assign=True)
    return model


def _split(state: StateDict) -> StateDict:
    split = {}
    for key, value in state.items():
        name = next((name for name in FUSED if f"{name}." in key), None)
        if name is None:
            split[key] = value
        else:
            parts = value.chunk(len(FUSED[name]))
            split |= {key.replace(name, part): rows for part, rows in zip(FUSED[name], parts, strict=True)}
    return split


def _rename(key: str, names: Mapping[str, str]) -> str:
    for pattern, name in names.items():
        key = re.sub(pattern, name, key)
    return key
