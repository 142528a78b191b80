"""One record a family: its architecture, how its files call tensors, how its images are prepared, where its files are.

Adding one is a record here and a specimen in the tests; CONTRIBUTING.md goes through it step by step.
"""

from vitprobe_jax.backbones.families.beit import BEIT, BEIT_FINETUNED, BEITV2, BEITV2_FINETUNED
from vitprobe_jax.backbones.families.capi import CAPI
from vitprobe_jax.backbones.families.dino import DINO
from vitprobe_jax.backbones.families.dinov2 import DINOV2
from vitprobe_jax.backbones.families.dinov3 import DINOV3
from vitprobe_jax.backbones.families.ibot import IBOT
from vitprobe_jax.backbones.families.ijepa import IJEPA
from vitprobe_jax.backbones.families.mae import MAE, MAE_FINETUNED
from vitprobe_jax.backbones.families.maskfeat import MASKFEAT
from vitprobe_jax.backbones.families.mocov3 import MOCOV3
from vitprobe_jax.backbones.families.msn import MSN
from vitprobe_jax.backbones.families.record import Arch, Family, KeyRules
from vitprobe_jax.backbones.families.scalemae import SCALEMAE
from vitprobe_jax.backbones.families.simmim import SIMMIM, SIMMIM_FINETUNED
from vitprobe_jax.backbones.families.supervised import AUGREG, DEIT, DEIT_DISTILLED, TORCHVISION

__all__ = ["FAMILIES", "Arch", "Family", "KeyRules"]

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *(DINO, IBOT, DINOV2, DINOV3, MOCOV3, MSN),
        *(MAE, SIMMIM, BEIT, BEITV2, MASKFEAT, IJEPA, CAPI, SCALEMAE),
        *(MAE_FINETUNED, SIMMIM_FINETUNED, BEIT_FINETUNED, BEITV2_FINETUNED),
        *(TORCHVISION, DEIT, DEIT_DISTILLED, AUGREG),
    )
}
"""By name: self-distilled and contrastive ones, masked ones, fine-tuned ones, supervised ones."""
