"""Scale-MAE: MAE of aerial images whose positions know the ground sample distance (Reed et al., ICCV 2023)."""

from vitprobe_jax.backbones.config import Architecture, Preprocess
from vitprobe_jax.backbones.families.record import Arch, Family, KeyRules, L

_FILE = "scalemae-vitlarge-800.pth"

SCALEMAE = Family(
    name="scalemae",
    objective="Scale-MAE (masked reconstruction over scales)",
    paper="Reed et al., ICCV 2023",
    data="FMoW",
    page="https://github.com/bair-climate-initiative/scale-mae",
    licence="CC-BY-NC-4.0",
    archs={
        "vitl16": Arch(
            patch_size=16,
            file=_FILE,
            url=f"https://github.com/bair-climate-initiative/scale-mae/releases/download/base-800/{_FILE}",
            **L,
        ),
    },
    architectures=(Architecture(positions="gsd"),),
    layouts=(
        KeyRules(
            # The stored position embedding is not used: positions are computed for each image.
            drop=("pos_embed", r"mask_token.*", r"decoder_.*", r"fpn\..*", r"fcn.*", r"pos_emb_projection\..*"),
            marks=(r"fpn\..*",),
        ),
    ),
    containers=("model",),
    # All evaluation sets but one are resized to a square, without a crop; torchvision's filter unless it is named.
    preprocess=Preprocess(interpolation="bilinear", resize_ratio=1.0, aspect="bent"),
    preprocess_source="scalemae/main_linprobe.py",
)
