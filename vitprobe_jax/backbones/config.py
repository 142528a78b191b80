"""What a backbone is, as data: the ViT's sizes, how its images are prepared, where its weights came from."""

import dataclasses
from typing import Literal, get_args

from vitprobe_jax.errors import InputError

Resample = Literal["dino", "bicubic"]
"""How a learned position grid is brought to another size; see `backbones.position`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """The architecture of a Vision Transformer encoder. Family differences are fields here, never other models.

    Attributes:
        patch_size: side of a square patch, in pixels.
        width: feature size D.
        depth: number of blocks L.
        num_heads: attention heads H; must divide `width` (it is never `width / 64` by rule).
        mlp_dim: hidden size of the MLP.
        grid: native patch grid (rows, columns) of the position embedding.
        class_token: whether a [CLS] token stands first.
        layer_norm_eps: epsilon of every LayerNorm.
        resample: rule for other grids.
    """

    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    grid: tuple[int, int]
    class_token: bool = True
    layer_norm_eps: float = 1e-6
    resample: Resample = "dino"

    def __post_init__(self):
        if self.num_heads < 1 or self.width % self.num_heads:
            raise InputError(
                f"num_heads={self.num_heads} does not divide the width {self.width}; give the model's own head count"
            )
        if self.resample not in get_args(Resample):
            raise InputError(f"resample={self.resample!r} is none of {', '.join(get_args(Resample))}")
        if not self.layer_norm_eps > 0:
            raise InputError(f"layer_norm_eps={self.layer_norm_eps} is not positive")

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the first patch ([CLS]; registers when a family has them)."""
        return int(self.class_token)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """MAE's decoder: sizes as in `ViTConfig`; it predicts the pixels of every patch in (row, column, channel) order."""

    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    layer_norm_eps: float = 1e-6

    def __post_init__(self):
        if self.num_heads < 1 or self.width % self.num_heads:
            raise InputError(f"decoder: num_heads={self.num_heads} does not divide the width {self.width}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a family prepares an image at evaluation.

    Attributes:
        mean: per RGB channel, of pixels in [0, 1].
        std: per RGB channel, of pixels in [0, 1].
        interpolation: pillow's filter name for the resize, with antialiasing.
        resize_ratio: the short side is resized to `resize_ratio` x the crop's side, then the centre is cropped.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_ratio: float = 256 / 224

    def __post_init__(self):
        if len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            raise InputError(f"mean={self.mean} and std={self.std} must hold three numbers each, those of std positive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """All that `backbone.json` says of a converted backbone, weights apart.

    Attributes:
        name: how results call it, `dino_vits16`.
        family: `dino`, `mae`.
        objective: the pre-training objective in words; `untrained control` for random weights.
        config: the encoder.
        preprocess: image preparation.
        decoder: MAE's decoder, where the source file had one.
        source: file name of the official checkpoint, or how the weights were made.
        sha256: of the source file (of the largest weight file of a Hugging Face folder); for bundled ones, of the weights.
        params_sha256: of the encoder's parameters as loaded (`loading.params_digest`).
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
            preprocess = {**data.pop("preprocess")}
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
