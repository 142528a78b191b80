"""What a family is, as data: architecture, key rules of its files, image preparation, where the official files are."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from vitprobe_jax.backbones.config import Architecture, Preprocess

Names = str | tuple[str | None, ...]
"""The file's name of a tensor, or of several that are stacked along the first axis; None stands for zeros. No name at all:
the file does not hold it, and it is as the model starts it."""

PositionKind = Literal["learned", "sincos", "sincos_rows_first"]
"""Kinds of stored position embedding: trained, or fixed sine-cosine with zeros for [CLS], with the columns' half first (MAE,
I-JEPA) or the rows' (MoCo v3)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arch:
    """One published checkpoint of a family. Sizes are read from the file; these say what it cannot tell, or must be.

    Attributes:
        num_heads: attention heads; never width / 64 by rule.
        patch_size: expected patch side in pixels; a file with another one is refused, as with `width` and `depth`.
        width: expected feature size.
        depth: expected number of blocks.
        decoder_heads: heads of MAE's decoder.
        file: name of the official file.
        url: where `--download` fetches it; empty where a person must, from the family's page.
        sha256: of the file, or its first digits where only they are published; empty where none are.
        data: what it was trained on, where the family's archs differ.
        marks: regular expressions of keys that tell this checkpoint from others of its size.
        preprocess: image preparation, where it is not the family's.
    """

    num_heads: int
    patch_size: int
    width: int
    depth: int
    decoder_heads: int | None = None
    file: str
    url: str = ""
    sha256: str = ""
    data: str = ""
    marks: tuple[str, ...] = ()
    preprocess: Preprocess | None = None


CLASSIFIER = r"head\.(?:weight|bias)"
"""Of a linear classifier, as timm's models call it."""


# Equal to itself alone, so that tables made of it can be cached.
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class KeyRules:
    """One way to call a family's tensors.

    Parameters go by their path in our Flax tree with `{}` for the block number, a linear map's by that of the map:
    `blocks.{}.attn.qkv`, or `blocks.{}.attn.qkv.bias` where weight and bias differ.

    Attributes:
        names: by parameter or map, what the file calls it; what is not listed is called as `PLAIN` says.
        masks: by parameter, a tensor of the file that multiplies it.
        prefix: of the family's own, before all keys; those of wrappers (`module.`, `backbone.`, `encoder.`, `model.`)
            are found without being listed.
        drop: regular expressions of keys, prefix aside, that are no part of the encoder or decoder.
        marks: regular expressions of keys that only this family has: where they are present, no other family is considered.
        needs: regular expressions of keys without which a file is not recognised as of the family.
        architectures: of encoders in this layout, where they are not the family's.
        model_types: of the `config.json` of a Hugging Face folder in which these keys stand; empty for official files.
    """

    names: Mapping[str, Names] = dataclasses.field(default_factory=dict)
    masks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prefix: str = ""
    drop: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    architectures: tuple[Architecture, ...] = ()
    model_types: tuple[str, ...] = ()


PLAIN: Mapping[str, Names] = {
    "patch_embed": "patch_embed.proj",
    "registers": "register_tokens",
    "rel_pos_bias": "rel_pos_bias.relative_position_bias_table",
    "blocks.{}.attn.rel_pos_bias": "blocks.{}.attn.relative_position_bias_table",
    "blocks.{}.ls1": "blocks.{}.ls1.gamma",
    "blocks.{}.ls2": "blocks.{}.ls2.gamma",
}
"""How official files call parameters, where not as we do; timm's names, which most of them share."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A pre-training family.

    Attributes:
        name: as in `--family`.
        objective: the pre-training objective in words.
        paper: where it was published.
        data: what it was trained on.
        page: of the official code and files.
        licence: of the official weights.
        archs: published checkpoints by the name of `--arch`.
        architectures: of its encoders; a file is of the first that it fits.
        layouts: how its files call their tensors.
        containers: keys under which a checkpoint file of the authors holds the weights, in order of preference, None for the
            top level; the containers of other training code and the top level come after them.
        position_kinds: kinds of position embedding that its files hold; these tell files apart that call all tensors alike.
        preprocess: image preparation at evaluation.
        preprocess_source: where the authors' code prepares images at evaluation, a file of their repository; empty where
            they published no evaluation.
        image_size: side of the training images in pixels, where no stored grid tells.
    """

    name: str
    objective: str
    paper: str
    data: str
    page: str
    licence: str
    archs: Mapping[str, Arch]
    architectures: tuple[Architecture, ...]
    layouts: tuple[KeyRules, ...] = (KeyRules(),)
    containers: tuple[str | None, ...] = (None,)
    position_kinds: tuple[PositionKind, ...] = ("learned",)
    preprocess: Preprocess = dataclasses.field(default_factory=Preprocess)
    preprocess_source: str = ""
    image_size: int = 224


S = {"num_heads": 6, "width": 384, "depth": 12}
B = {"num_heads": 12, "width": 768, "depth": 12}
L = {"num_heads": 16, "width": 1024, "depth": 24}
H = {"num_heads": 16, "width": 1280, "depth": 32}
IMAGENET_1K, IMAGENET_22K = "ImageNet-1k", "ImageNet-22k"
FACEBOOK = "https://dl.fbaipublicfiles.com"
