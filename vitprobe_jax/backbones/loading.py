"""Backbones by folder or by bundled name, whole or not at all."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath
from jaxtyping import Array, Float, UInt8

from vitprobe_jax.atomic import is_remote, kvstore
from vitprobe_jax.backbones.capture import capture_pixels, global_representation
from vitprobe_jax.backbones.config import BackboneSpec, DecoderConfig
from vitprobe_jax.backbones.mae_decoder import make_decoder
from vitprobe_jax.backbones.saving import params_digest
from vitprobe_jax.backbones.untrained import UNTRAINED
from vitprobe_jax.backbones.vit import param_shapes
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Intermediate

TRAINED = ("dino_shapes_tiny", "mae_shapes_tiny")
"""Bundled backbones that `python -m experiments.pretrain` trained; each a folder in `bundled`, with its recipe and curve."""


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A frozen ViT: its record and its parameters.

    Attributes:
        spec: what `backbone.json` says.
        params: of the encoder, as `ViT` names them.
        folder: the converted folder that it was read from, where `load_decoder` finds more; None for one of no file.
    """

    spec: BackboneSpec
    params: Mapping
    folder: epath.Path | None = None

    def tokens(
        self,
        images: UInt8[Array | np.ndarray, "B height width 3"],
        wanted: Sequence[tuple[int, Intermediate]],
        *,
        dtype: str = "float32",
        gsd: Float[Array | np.ndarray, " B"] | None = None,
    ) -> dict[tuple[int, Intermediate], Float[Array, "B ..."]]:
        """Intermediates of RGB images in 0..255 whose sides are multiples of the patch size; see `capture`."""
        return _tokens(self.spec, tuple(wanted), dtype, self.params, images, gsd)

    def global_representation(
        self,
        images: UInt8[Array | np.ndarray, "B height width 3"],
        *,
        dtype: str = "float32",
        gsd: Float[Array | np.ndarray, " B"] | None = None,
    ) -> Float[Array, "B D"]:
        """What the family takes for the whole image: [CLS], a mean of patches, or what its paper says; see `ViT.pool`."""
        return _global(self.spec, dtype, self.params, images, gsd)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _tokens(spec: BackboneSpec, wanted, dtype: str, params, images, gsd):
    return capture_pixels(spec.config, spec.preprocess, params, images, wanted, dtype=jnp.dtype(dtype), gsd=gsd)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _global(spec: BackboneSpec, dtype: str, params, images, gsd):
    return global_representation(spec.config, spec.preprocess, params, images, dtype=jnp.dtype(dtype), gsd=gsd)


def load_backbone(name: str, *, flag: str = "backbones") -> Backbone:
    """A converted backbone from its folder, on disk or in a bucket, or a bundled one by its name.

    Args:
        name: of either.
        flag: what a message calls the option that named it.

    Raises:
        InputError: neither a folder nor a bundled name; a folder that is not whole.
    """
    if name in TRAINED:
        return load_backbone(str(resources.files("vitprobe_jax.backbones") / "bundled" / name))
    if name in UNTRAINED:
        spec, make_params = UNTRAINED[name]
        params = make_params()
        digest = params_digest(params)
        return Backbone(dataclasses.replace(spec, sha256=digest, params_sha256=digest), params)
    folder = epath.Path(name).expanduser()
    if not folder.is_dir():
        raise InputError(
            f"--{flag}: {name!r} is neither a converted folder nor a bundled name ({', '.join((*TRAINED, *UNTRAINED))}); "
            "convert an official file with `python -m checkpoints_convert`"
        )
    spec = read_spec(folder)
    return Backbone(spec, _restore(folder / "params", spec.params_sha256, param_shapes(spec.config)), folder)


def load_decoder(folder: epath.PathLike) -> tuple[DecoderConfig, Mapping]:
    """MAE's decoder of a converted folder: its config and parameters.

    Raises:
        InputError: the folder holds no decoder, or is not whole.
    """
    spec = read_spec(folder)
    if spec.decoder is None:
        raise InputError(f"{folder}: its source file {spec.source} had no decoder; convert MAE's full checkpoint")
    module = make_decoder(spec.config, spec.decoder)
    patches = jnp.zeros((1, module.num_patches), jnp.int32)
    encoded = jnp.zeros((1, 1 + module.num_patches, spec.config.width))
    shapes = jax.eval_shape(module.init, jax.random.key(0), encoded, patches)["params"]
    return spec.decoder, _restore(epath.Path(folder) / "decoder", spec.decoder_sha256, shapes)


def read_spec(folder: epath.PathLike) -> BackboneSpec:
    """The record of a converted folder.

    Raises:
        InputError: `backbone.json` is missing or damaged.
    """
    path = epath.Path(folder) / "backbone.json"
    try:
        return BackboneSpec.from_json(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a converted backbone ({error}); convert the official file again") from error


def _restore(path: epath.Path, digest: str, shapes: Mapping) -> Mapping:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)
    path = path if is_remote(path) else path.resolve()
    try:
        _read_in_turn(path)
        with ocp.StandardCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(path).item_metadata
            if metadata is None:
                raise ValueError("what they are is not said; _METADATA or _sharding is damaged")
            stored, wanted = _shapes(metadata.tree), _shapes(target)
            different = sorted(name for name in stored | wanted if stored.get(name) != wanted.get(name))
            if different:
                raise ValueError(
                    f"backbone.json describes others: {len(different)} differ, as {different[0]}, "
                    f"{stored.get(different[0], 'missing')} instead of {wanted.get(different[0], 'none')}"
                )
            params = checkpointer.restore(path, target)
        if params_digest(params) != digest:
            raise ValueError("they are not those that were converted: their SHA-256 differs from backbone.json's")
        return params
    # Orbax and tensorstore raise many kinds for a damaged folder; none of them is a bug of ours.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path}: parameters cannot be read ({reason[0]}); convert the official file again") from error


def _shapes(tree: Mapping) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}


def _read_in_turn(path: epath.Path) -> None:
    """Raises for the first part of a checkpoint that is cut short or missing.

    Orbax reads all parts at once, and a damaged folder would print a traceback for every one of them.
    """
    store = ts.KvStore.open({"driver": "ocdbt", "base": kvstore(path)}).result()
    keys = store.list().result()
    if not keys:
        raise FileNotFoundError("there are none")
    for key in keys:
        # A part whose file is gone reads as nothing.
        if not store.read(key).result().value:
            raise FileNotFoundError(f"{key.decode()} is missing")
