"""Scale-MAE: MAE of aerial images whose positions know the ground sample distance (Reed et al., ICCV 2023)."""

from vitprobe_jax.backbones.config import Architecture, Preprocess
from vitprobe_jax.backbones.families.record import CLASSIFIER, Arch, Family, KeyRules, L

# The position embedding is not used: positions are computed for each image.
_STORED = "pos_embed"
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
            drop=(_STORED, r"mask_token.*", r"decoder_.*", r"fpn\..*", r"fcn.*", r"pos_emb_projection\..*"),
            marks=(r"fpn\..*",),
            needs=(r"fpn\..*",),
        ),
        # scalemae/models_vit.py, fine-tuned: on the mean of the patches, or on [CLS].
        KeyRules(
            names={"norm": "fc_norm"},
            drop=(_STORED, CLASSIFIER),
            needs=(CLASSIFIER,),
            architectures=(Architecture(positions="gsd", pool="patches_then_norm"),),
        ),
        KeyRules(drop=(_STORED, CLASSIFIER), needs=(CLASSIFIER,)),
    ),
    containers=("model",),
    # Of the stored ones, which stay as they were.
    position_kinds=("sincos",),
    # All evaluation sets but one are resized to a square, without a crop; torchvision's filter unless it is named.
    preprocess=Preprocess(interpolation="bilinear", resize_ratio=1.0, aspect="bent"),
    preprocess_source="scalemae/main_linprobe.py",
)
