"""Specimens of every family: random weights in the official layout, and an independent torch implementation of the model.

`SPECIMENS` maps a specimen's name to it, in the order of `FAMILIES`. It is put together when first asked for: who only wants
random weights (`tests.zoo.weights`) does not wait for timm and transformers.
"""

from typing import Any

from vitprobe_jax.backbones.families import FAMILIES


def __getattr__(name: str) -> Any:
    if name != "SPECIMENS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tests.zoo import beit, capi, dinov2, dinov3, ijepa, plain, torchvision_vit

    modules = (plain, beit, ijepa, capi, dinov2, dinov3, torchvision_vit)
    specimens = [specimen for module in modules for specimen in module.SPECIMENS]
    specimens.sort(key=lambda specimen: list(FAMILIES).index(specimen.family))
    table = {specimen.name: specimen for specimen in specimens}
    if len(table) < len(specimens):
        raise ValueError(f"two specimens share a name: {sorted(specimen.name for specimen in specimens)}")
    globals()[name] = table
    return table
