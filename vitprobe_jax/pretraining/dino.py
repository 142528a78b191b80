"""Self-distillation without labels (Caron et al., 2021, section 3): a student learns what its average says of each image."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, UInt8

from vitprobe_jax.backbones.capture import normalize
from vitprobe_jax.backbones.config import Preprocess, ViTConfig
from vitprobe_jax.backbones.untrained import init_dino
from vitprobe_jax.backbones.vit import ViT
from vitprobe_jax.pretraining.views import random_colours, random_flip, random_resized_crop

STUDENT_TEMPERATURE = 0.1
CENTER_MOMENTUM = 0.9


class Head(nn.Module):
    """DINO's projection: three layers, a unit sphere, and prototypes of unit length (section 3.1, appendix C).

    Attributes:
        hidden: width of the first two layers.
        bottleneck: width on the sphere.
        prototypes: number of outputs.
    """

    hidden: int
    bottleneck: int
    prototypes: int

    @nn.compact
    def __call__(self, x_BxD: Float[Array, "B D"]) -> Float[Array, "B prototypes"]:
        init = nn.initializers.truncated_normal(0.02)
        for i in (1, 2):
            x_BxD = nn.gelu(nn.Dense(self.hidden, kernel_init=init, name=f"fc{i}")(x_BxD), approximate=False)
        x_BxD = _unit(nn.Dense(self.bottleneck, kernel_init=init, name="fc3")(x_BxD), axis=-1)
        prototypes = self.param("prototypes", nn.initializers.normal(1.0), (self.bottleneck, self.prototypes))
        return x_BxD @ _unit(prototypes, axis=0)


@dataclasses.dataclass(frozen=True)
class DINO:
    """The objective; `training.Objective` says what its methods are for.

    Two global crops (40 to 100% of the area) and several local ones (5 to 40%); the teacher sees the global ones, the
    student all of them.

    Attributes:
        config: of the backbone.
        preprocess: how pixels are normalised before it.
        global_size: side of a global crop in pixels.
        local_size: side of a local crop.
        num_local: local crops of an image.
        hidden: width of the projection's first two layers.
        bottleneck: its width on the sphere.
        prototypes: its outputs; the published 65,536 are for ImageNet.
        teacher_temperature: that sharpens the teacher's output.
        momentum: of the teacher's average in the first step; it rises to 1 along a cosine.
        frozen_share: share of the steps, from the start, in which the prototypes stay as they are.
    """

    config: ViTConfig
    preprocess: Preprocess
    global_size: int = 64
    local_size: int = 32
    num_local: int = 4
    hidden: int = 256
    bottleneck: int = 64
    prototypes: int = 2048
    teacher_temperature: float = 0.04
    momentum: float = 0.996
    frozen_share: float = 0.01

    betas = (0.9, 0.999)
    fixed = ()

    @property
    def head(self) -> Head:
        """The projection."""
        return Head(self.hidden, self.bottleneck, self.prototypes)

    def init(self, key: Key[Array, ""]) -> Mapping:
        of_backbone, of_head = jax.random.split(key)
        head = self.head.init(of_head, jnp.zeros((1, self.config.width)))["params"]
        return {"encoder": init_dino(self.config, of_backbone), "head": head}

    def init_memory(self, params: Mapping) -> Mapping:
        return {"teacher": params, "center": jnp.zeros(self.prototypes)}

    def loss(
        self,
        params: Mapping,
        memory: Mapping,
        keys: Key[Array, " B"],
        images: UInt8[Array, "B height width 3"],
        step: Int[Array, ""],
        *,
        steps: int,
    ) -> tuple[Float[Array, ""], Mapping]:
        """Cross-entropy of every student crop under the teacher's view of each other global crop (equations 1 to 3)."""
        global_crops, local_crops = jax.vmap(self._views, out_axes=1)(keys, images)
        frozen = step < self.frozen_share * steps
        prototypes = params["head"]["prototypes"]
        held = jnp.where(frozen, jax.lax.stop_gradient(prototypes), prototypes)
        student = {**params, "head": {**params["head"], "prototypes": held}}
        # [crop, B, prototypes]; crops of one size go through the backbone together.
        logits = jnp.concatenate([self._project(student, global_crops), self._project(student, local_crops)])
        log_p = jax.nn.log_softmax(logits / STUDENT_TEMPERATURE, axis=-1)
        taught = jax.lax.stop_gradient(self._project(memory["teacher"], global_crops))
        centered = taught - memory["center"].reshape(1, 1, -1)
        q = jax.nn.softmax(centered / self.teacher_temperature, axis=-1)
        entropy_2xVxB = -jnp.einsum("gbk,vbk->gvb", q, log_p, precision=jax.lax.Precision.HIGHEST)
        other = 1.0 - jnp.eye(2, len(logits))
        pairs = jnp.sum(other) * len(images)
        loss = jnp.sum(entropy_2xVxB * other[:, :, None]) / pairs
        own = -jnp.mean(jnp.sum(q * jnp.log(q + 1e-12), axis=-1))
        return loss, {"shown": {"teacher_entropy": own}, "kept": {"center": jnp.mean(taught, axis=(0, 1))}}

    def remember(self, memory: Mapping, params: Mapping, kept: Mapping, step: Int[Array, ""], *, steps: int) -> Mapping:
        """The teacher's next average, and the next centre (equation 4)."""
        momentum = 1 - (1 - self.momentum) * (1 + jnp.cos(jnp.pi * step / steps)) / 2
        teacher = jax.tree.map(lambda old, new: momentum * old + (1 - momentum) * new, memory["teacher"], params)
        center = CENTER_MOMENTUM * memory["center"] + (1 - CENTER_MOMENTUM) * kept["center"]
        return {"teacher": teacher, "center": center}

    def encoder(self, params: Mapping, memory: Mapping) -> Mapping:
        """The teacher, which is what the official files are used for."""
        del params
        return memory["teacher"]["encoder"]

    def _project(self, params: Mapping, crops: Float[Array, "V B h w 3"]) -> Float[Array, "V B prototypes"]:
        images = normalize(255 * crops.reshape(-1, *crops.shape[2:]), self.preprocess)
        tokens = ViT(self.config).apply({"params": params["encoder"]}, images)
        return self.head.apply({"params": params["head"]}, tokens[:, 0]).reshape(*crops.shape[:2], -1)

    def _views(self, key: Key[Array, ""], image: UInt8[Array, "height width 3"]):
        image = image / 255.0
        keys = jax.random.split(key, 2 + self.num_local)

        def view(key, *, size, area, blur, solarize):
            of_crop, of_flip, of_colours = jax.random.split(key, 3)
            crop = random_flip(of_flip, random_resized_crop(of_crop, image, size=size, area=area))
            return random_colours(of_colours, crop, blur=blur, solarize=solarize)

        of_global = {"size": self.global_size, "area": (0.4, 1.0)}
        first = view(keys[0], blur=1.0, solarize=0.0, **of_global)
        second = view(keys[1], blur=0.1, solarize=0.2, **of_global)
        local = jax.vmap(lambda key: view(key, size=self.local_size, area=(0.05, 0.4), blur=0.5, solarize=0.0))
        return jnp.stack([first, second]), local(keys[2:])


def _unit(x: Float[Array, "a b"], *, axis: int) -> Float[Array, "a b"]:
    # The square root of a sum that may be zero has no gradient there.
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=axis, keepdims=True) + 1e-12)
