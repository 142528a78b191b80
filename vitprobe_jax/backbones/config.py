"""What a backbone is, as data: the ViT's sizes, how its images are prepared, where its weights came from."""

import dataclasses
from typing import Any, Literal, get_args

from vitprobe_jax.errors import InputError

Resample = Literal["dino", "bicubic", "bicubic_antialias", "bicubic_aligned", "bilinear"]
"""How a learned position grid is brought to another size; see `backbones.position`."""

Positions = Literal["learned", "gsd", "none"]
RelativeBias = Literal["none", "shared", "per_block"]
Rope = Literal["none", "axial", "stored"]
Norm = Literal["layer_norm", "rms_norm"]
Nonlinearity = Literal["gelu", "swiglu"]
Pool = Literal["class", "patches", "patches_then_norm", "predictor"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockTraits:
    """What the blocks of a family are like, whatever their sizes.

    Attributes:
        layer_norm_eps: epsilon of every norm.
        norm: `layer_norm`, or `rms_norm`, which takes off no mean and adds no bias.
        bias: whether the linear maps of blocks have one.
        layer_scale: whether what attention and MLP add is multiplied by a learned vector first.
        mlp: `gelu`, two maps with the exact GELU between; `swiglu`, SiLU(gate) x value between two maps.
        relative_bias: a learned bias of attention logits by the offset between patches: one table for all blocks
            (`shared`) or one a block.
        rope: rotation of queries and keys by place: `axial` by one set of periods, patch centres in [-1, 1], prefix tokens
            not turned (DINOv3); `stored` by frequencies of each block, patches from corner to corner of [0, 1] and registers
            on the border of the image (CAPI).
        rope_base: of `axial` periods, where a file does not hold them.
    """

    layer_norm_eps: float = 1e-6
    norm: Norm = "layer_norm"
    bias: bool = True
    layer_scale: bool = False
    mlp: Nonlinearity = "gelu"
    relative_bias: RelativeBias = "none"
    rope: Rope = "none"
    rope_base: float = 100.0

    def __post_init__(self):
        for field, options in _OPTIONS.items():
            if hasattr(self, field) and getattr(self, field) not in options:
                raise InputError(f"{field}={getattr(self, field)!r} is none of {', '.join(options)}")
        if not self.layer_norm_eps > 0:
            raise InputError(f"layer_norm_eps={self.layer_norm_eps} is not positive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture(BlockTraits):
    """What makes a family's encoder, sizes apart. Family differences are fields here, never other models.

    Attributes:
        class_token: whether a [CLS] token stands first.
        num_registers: further tokens between [CLS] and the patches.
        register_positions: whether registers have rows in the position embedding (DeiT's distillation token).
        positions: `learned`, an embedding stored with the weights (fixed sine-cosine ones too); `gsd`, sine-cosine of place
            times ground sample distance, for each image (Scale-MAE); `none`, where attention itself knows places.
        resample: rule for other grids of `learned` positions.
        final_norm_affine: whether the last norm has parameters.
        pool: the family's global representation, see `ViT.pool`.
    """

    class_token: bool = True
    num_registers: int = 0
    register_positions: bool = False
    positions: Positions = "learned"
    resample: Resample = "dino"
    final_norm_affine: bool = True
    pool: Pool = "class"

    def __post_init__(self):
        super().__post_init__()
        if self.pool == "class" and not self.class_token:
            raise InputError("pool='class' needs a [CLS] token; a model without one pools its patches")
        if self.relative_bias != "none" and self.num_prefix_tokens != 1:
            raise InputError("relative_bias: its tables know one prefix token, [CLS]")
        if self.rope == "stored" and self.num_registers % 4:
            raise InputError(f"num_registers={self.num_registers}: registers on the border come four sides alike")

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the first patch: [CLS] and registers."""
        return int(self.class_token) + self.num_registers

    @property
    def num_prefix_positions(self) -> int:
        """Prefix tokens that have a row in the position embedding."""
        return int(self.class_token) + self.num_registers * self.register_positions


_OPTIONS = {
    "norm": get_args(Norm),
    "mlp": get_args(Nonlinearity),
    "relative_bias": get_args(RelativeBias),
    "rope": get_args(Rope),
    "positions": get_args(Positions),
    "resample": get_args(Resample),
    "pool": get_args(Pool),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig(Architecture):
    """A Vision Transformer encoder: an architecture with its sizes.

    Attributes:
        patch_size: side of a square patch, in pixels.
        width: feature size D.
        depth: number of blocks L.
        num_heads: attention heads H; must divide `width` (it is never `width / 64` by rule).
        mlp_dim: hidden size of the MLP.
        grid: native patch grid (rows, columns): of the position embedding, of relative tables, else of training.
        gsd: ground sample distance of images that come without one, in metres a pixel; for `positions="gsd"` alone.
    """

    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    grid: tuple[int, int]
    gsd: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.num_heads < 1 or self.width % self.num_heads:
            raise InputError(
                f"num_heads={self.num_heads} does not divide the width {self.width}; give the model's own head count"
            )
        if self.rope != "none" and self.width // self.num_heads % 4:
            raise InputError(
                f"num_heads={self.num_heads}: RoPE turns pairs of rows and of columns, so a head needs a multiple of 4 "
                f"values, not {self.width // self.num_heads}"
            )
        if not self.gsd > 0:
            raise InputError(f"gsd={self.gsd} is not positive; give metres a pixel")

    @property
    def native_size(self) -> tuple[int, int]:
        """Height and width of the images of the native grid, in pixels."""
        return self.grid[0] * self.patch_size, self.grid[1] * self.patch_size


def sized(architecture: Architecture, **sizes: Any) -> ViTConfig:
    """A family's architecture with sizes, the fields that `ViTConfig` adds."""
    return ViTConfig(**dataclasses.asdict(architecture), **sizes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(BlockTraits):
    """MAE's decoder: sizes as in `ViTConfig`; it predicts the pixels of every patch in (row, column, channel) order."""

    width: int
    depth: int
    num_heads: int
    mlp_dim: int

    def __post_init__(self):
        super().__post_init__()
        if self.num_heads < 1 or self.width % self.num_heads:
            raise InputError(f"decoder: num_heads={self.num_heads} does not divide the width {self.width}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a family prepares an image at evaluation: resize, centre crop, normalisation.

    Attributes:
        mean: per RGB channel, of pixels in [0, 1].
        std: per RGB channel, of pixels in [0, 1].
        interpolation: pillow's filter name for the resize, with antialiasing.
        resize_ratio: size of the resized image as a multiple of the crop.
        size: the crop's side at evaluation, in pixels; that of the native grid unless given.
        resize_rounding: `down` truncates `resize_ratio` x side, as timm and the authors' scripts do; `nearest` rounds it, as
            this library did in the records that do not say.
        whole_from: crop sides from this one on, in pixels, are resized to the crop itself (`resize_ratio` is 1 there); None
            for no such size.
        aspect: `kept` scales the short side to `resize_ratio` x the crop; `bent` scales both sides to that, whatever the
            image's aspect.
        crop_rounding: where an odd number of pixels is cut off, the offset is rounded half to `even` (torchvision) or
            `down` (transformers).
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_ratio: float = 256 / 224
    size: int | None = None
    resize_rounding: Literal["down", "nearest"] = "down"
    whole_from: int | None = None
    aspect: Literal["kept", "bent"] = "kept"
    crop_rounding: Literal["even", "down"] = "even"

    def __post_init__(self):
        if len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            raise InputError(f"mean={self.mean} and std={self.std} must hold three numbers each, those of std positive")
        for field, options in _PREPROCESS_OPTIONS.items():
            if getattr(self, field) not in options:
                raise InputError(f"{field}={getattr(self, field)!r} is none of {', '.join(options)}")

    def ratio_at(self, size: tuple[int, int]) -> float:
        """`resize_ratio` for a crop of this height and width, in pixels."""
        return 1.0 if self.whole_from is not None and max(size) >= self.whole_from else self.resize_ratio


_PREPROCESS_OPTIONS = {
    "interpolation": ("bicubic", "bilinear"),
    "resize_rounding": ("down", "nearest"),
    "aspect": ("kept", "bent"),
    "crop_rounding": ("even", "down"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """All that `backbone.json` says of a converted backbone, weights apart.

    Attributes:
        name: how results call it, `dino_vits16`.
        family: a key of `FAMILIES`.
        objective: the pre-training objective in words; `untrained control` for random weights.
        config: the encoder.
        preprocess: image preparation.
        decoder: MAE's decoder, where the source file had one.
        source: file name of the official checkpoint, or how the weights were made.
        sha256: of the source file (of the largest weight file of a Hugging Face folder); for bundled ones, of the weights.
        params_sha256: of the encoder's parameters as loaded (`saving.params_digest`).
        decoder_sha256: of the decoder's parameters, where there is one.
    """

    name: str
    family: str
    objective: str
    config: ViTConfig
    preprocess: Preprocess = dataclasses.field(default_factory=Preprocess)
    decoder: DecoderConfig | None = None
    source: str = ""
    sha256: str = ""
    params_sha256: str = ""
    decoder_sha256: str = ""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width at which the family is evaluated, in pixels."""
        return self.config.native_size if self.preprocess.size is None else (self.preprocess.size,) * 2

    def to_json(self) -> dict:
        """A JSON-ready dict; `from_json` is its inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> "BackboneSpec":
        """Rebuilds the record.

        Raises:
            InputError: a field is missing, unknown or of the wrong shape.
        """
        try:
            data = dict(data)
            config = {**data.pop("config")}
            config["grid"] = tuple(config["grid"])
            # Records without the field are from versions that rounded.
            preprocess = {"resize_rounding": "nearest", **data.pop("preprocess")}
            preprocess["mean"], preprocess["std"] = tuple(preprocess["mean"]), tuple(preprocess["std"])
            decoder = data.pop("decoder", None)
            return cls(
                config=ViTConfig(**config),
                preprocess=Preprocess(**preprocess),
                decoder=None if decoder is None else DecoderConfig(**decoder),
                **data,
            )
        except KeyError as error:
            raise InputError(f"not a backbone record: no field {error}") from error
        except (TypeError, AttributeError, ValueError) as error:
            raise InputError(f"not a backbone record: {error}") from error
