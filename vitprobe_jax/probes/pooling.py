"""How the tokens of an image become one vector, for a classifier on top of it ("Beyond [cls]", arXiv 2412.03215).

Patches z_1 .. z_P of D features are summed with weights that make up a distribution:

- `mean` weighs all alike, and the *given* representations by attention maps that come with the tokens (`frozen.WEIGHTS`).
- AbMILP of depth d learns the weights: d - 1 linear layers with an activation, one to a logit, softmax over the patches.
- SA-AbMILP first brings the patches together in a self-attention of one head; its outputs are weighed and summed.
- Attentive probing asks with a learned query in H heads, each with keys and values of its own.

`cls` takes the [CLS] token instead. All functions are those of one head; `heads` maps them over many.

Attentive probing is *folded*. The logit of head h is q_h @ (W_h z) = (W_h^T q_h) @ z, and the sum of a_i V_h z_i is
V_h (sum of a_i z_i): D x H numbers meet a patch instead of two matrices of D x D, 2 H / D of the operations at 12 heads of
ViT-S one sixteenth, and the key and value of a patch are never there.
"""

import dataclasses
import re
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from vitprobe_jax.errors import InputError
from vitprobe_jax.features.frozen import WEIGHTS, ImageTokens

Kind = Literal["mean", "cls", "abmilp", "sa_abmilp", "attentive", "given"]
Activation = Literal["relu", "gelu", "tanh"]
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "tanh": jnp.tanh,
}
DEEPEST = 4
QUERY_DEVIATION = 0.02
"""Of the learned query at the start."""


@dataclasses.dataclass(frozen=True)
class Pooling:
    """A representation.

    Attributes:
        kind: how it is made.
        depth: linear layers of AbMILP, 1 to 4.
        activation: between them; GELU is the exact one.
        heads: of attentive probing; they divide the features.
        weights: of `frozen.WEIGHTS`, where they are given.
    """

    kind: Kind
    depth: int = 1
    activation: Activation = "relu"
    heads: int = 1
    weights: str = ""

    @property
    def name(self) -> str:
        """As `--representations` and the results have it; `parse_pooling` reads it."""
        if self.kind == "abmilp":
            return "abmilp_1" if self.depth == 1 else f"abmilp_{self.depth}_{self.activation}"
        if self.kind == "attentive":
            return f"attentive_{self.heads}"
        return self.weights if self.kind == "given" else self.kind

    @property
    def is_trained(self) -> bool:
        """Whether it has parameters of its own, beside the classifier's."""
        return self.kind in ("abmilp", "sa_abmilp", "attentive")

    @property
    def is_folded(self) -> bool:
        """Whether its logits are linear in the patches, and its vector in sums of them (`fold`, `unfold`)."""
        return self.kind == "attentive" or (self.kind == "abmilp" and self.depth == 1)


def parse_pooling(name: str) -> Pooling:
    """The representation of a name, such as `mean`, `abmilp_2_gelu`, `attentive_12`, `lowest_entropy_cls`.

    Raises:
        InputError: there is none of this name.
    """
    if name in ("mean", "cls", "sa_abmilp"):
        return Pooling(name)
    if name in WEIGHTS:
        return Pooling("given", weights=name)
    if name == "abmilp_1":
        return Pooling("abmilp")
    if match := re.fullmatch(rf"abmilp_([2-{DEEPEST}])_({'|'.join(ACTIVATIONS)})", name):
        return Pooling("abmilp", depth=int(match[1]), activation=match[2])
    if match := re.fullmatch(r"attentive_([1-9]\d*)", name):
        return Pooling("attentive", heads=int(match[1]))
    known = f"mean, cls, abmilp_1, abmilp_2_relu (2 to {DEEPEST}; {', '.join(get_args(Activation))}), sa_abmilp"
    raise InputError(
        f"--representations: there is no {name!r}; there are {known}, attentive_1 (or any number of heads that divides the "
        f"features), {', '.join(WEIGHTS)}"
    )


def init_pooling(key: Key[Array, ""], pooling: Pooling, width: int) -> PyTree[Float[Array, "..."]]:
    """Parameters at the start: {} where there are none.

    Kernels and biases of AbMILP and SA-AbMILP are uniform from -1 / sqrt(D) to 1 / sqrt(D), with a standard deviation of
    1 / sqrt(3 D): PyTorch's default for linear layers, which the paper's code keeps (gmum/beyond_cls, abmilp.py). The scale
    matters under LARS, whose steps are a share of it. Keys and values of attentive probing are LeCun-normal, its query
    normal with a standard deviation of 0.02. The layer to the logit has no bias: it would add the same to all logits, and
    the softmax removes it. Kernels are [inputs, outputs]; keys and values of attentive probing [H, D / H, D], heads and
    their outputs first. The query is [1, D]: for LARS a matrix.

    Raises:
        InputError: heads do not divide the features.
    """
    if pooling.kind == "attentive" and width % pooling.heads:
        raise InputError(
            f"--representations: {pooling.name} has {pooling.heads} heads, which do not divide {width} features; give "
            "another number of heads"
        )
    if not pooling.is_trained:
        return {}
    keys = jax.random.split(key, 3 + DEEPEST)
    if pooling.kind == "attentive":
        query = QUERY_DEVIATION * jax.random.normal(keys[0], (1, width))
        by_head = jax.nn.initializers.lecun_normal(in_axis=2, out_axis=(0, 1))
        shape = (pooling.heads, width // pooling.heads, width)
        return {"query": query, "key": by_head(keys[1], shape), "value": by_head(keys[2], shape)}
    params = {"logit": _init_linear(keys[0], width, 1, bias=False)}
    if pooling.kind == "sa_abmilp":
        qkv = _init_linear(keys[1], width, 3 * width, bias=False)
        return params | {"qkv": qkv, "projection": _init_linear(keys[2], width, width)}
    for layer in range(pooling.depth - 1):
        params[f"hidden_{layer}"] = _init_linear(keys[3 + layer], width, width)
    return params


def _init_linear(key, inputs: int, outputs: int, *, bias: bool = True):
    """A linear layer as `torch.nn.Linear` begins."""
    bound = inputs**-0.5
    of_kernel, of_bias = jax.random.split(key)
    layer = {"kernel": jax.random.uniform(of_kernel, (inputs, outputs), minval=-bound, maxval=bound)}
    return layer | ({"bias": jax.random.uniform(of_bias, (outputs,), minval=-bound, maxval=bound)} if bias else {})


def pool(pooling: Pooling, params: PyTree[Float[Array, "..."]], tokens: ImageTokens) -> Float[Array, "B D"]:
    """The vector of every image, in float32."""
    if pooling.kind == "cls":
        return tokens.cls.astype(jnp.float32)
    patches = tokens.patches.astype(jnp.float32)
    if pooling.kind == "mean":
        return jnp.mean(patches, axis=1)
    if pooling.is_folded:
        return unfold(pooling, params, weighted_sums(patch_logits(fold(pooling, params), patches), patches))
    if pooling.kind == "sa_abmilp":
        patches = _attended(params, patches)
    return _product("bp,bpd->bd", _weights(pooling, params, tokens, patches), patches)


def fold(pooling: Pooling, params: PyTree[Float[Array, "..."]]) -> Float[Array, "H D"]:
    """What a patch is multiplied with for the logits of a folded representation; AbMILP has one head."""
    if pooling.kind == "abmilp":
        return params["logit"]["kernel"].T
    query_HxE = params["query"].reshape(pooling.heads, -1)
    return _product("hed,he->hd", params["key"], query_HxE) * query_HxE.shape[1] ** -0.5


def patch_logits(folded: Float[Array, "H D"], patches: Float[Array, "B P D"]) -> Float[Array, "B P H"]:
    """Logits of folded representations; their heads may be put together."""
    return _product("bpd,hd->bph", patches, folded)


def weighted_sums(logits: Float[Array, "B P H"], patches: Float[Array, "B P D"]) -> Float[Array, "B H D"]:
    """Sums of the patches with each head's softmax for weights."""
    return _product("bph,bpd->bhd", jax.nn.softmax(logits, axis=1), patches)


def unfold(pooling: Pooling, params: PyTree[Float[Array, "..."]], sums: Float[Array, "B H D"]) -> Float[Array, "B D"]:
    """The vectors of a folded representation from its sums of patches."""
    if pooling.kind == "abmilp":
        return sums[:, 0]
    return _product("bhd,hed->bhe", sums, params["value"]).reshape(len(sums), -1)


def patch_weights(pooling: Pooling, params: PyTree[Float[Array, "..."]], tokens: ImageTokens) -> Float[Array, "B P"]:
    """The weights of every image's patches, a distribution: of attentive probing the mean over its heads.

    Raises:
        ValueError: `cls` has none.
    """
    if pooling.kind == "cls":
        raise ValueError("[CLS] is no sum over patches: it has no weights")
    patches = tokens.patches.astype(jnp.float32)
    if pooling.kind == "mean":
        return jnp.full(patches.shape[:2], 1 / patches.shape[1])
    if pooling.kind == "attentive":
        return jnp.mean(jax.nn.softmax(patch_logits(fold(pooling, params), patches), axis=1), axis=-1)
    if pooling.kind == "sa_abmilp":
        patches = _attended(params, patches)
    return _weights(pooling, params, tokens, patches)


def _weights(pooling, params, tokens, patches_BxPxD):
    """Those of `given`, and AbMILP's of patches that have been attended to where that is so."""
    if pooling.kind == "given":
        return tokens.weights[pooling.weights].astype(jnp.float32)
    hidden = patches_BxPxD
    for layer in range(pooling.depth - 1):
        hidden = ACTIVATIONS[pooling.activation](_linear(params[f"hidden_{layer}"], hidden))
    return jax.nn.softmax(_product("bpd,dk->bpk", hidden, params["logit"]["kernel"])[..., 0], axis=1)


def _attended(params, patches_BxPxD):
    """Self-attention of one head, without a residual."""
    qkv_BxPx3D = _product("bpd,de->bpe", patches_BxPxD, params["qkv"]["kernel"])
    q, k, v = jnp.split(qkv_BxPx3D, 3, axis=-1)
    attn_BxPxP = jax.nn.softmax(_product("bpd,bqd->bpq", q, k) * q.shape[-1] ** -0.5, axis=-1)
    return _linear(params["projection"], _product("bpq,bqd->bpd", attn_BxPxP, v))


def _linear(params, x):
    return _product("bpd,de->bpe", x, params["kernel"]) + params["bias"][None, None]


def _product(subscripts: str, *operands):
    return jnp.einsum(subscripts, *operands, precision=jax.lax.Precision.HIGHEST)
