"""Representations equal PyTorch modules written here in the plain way, in values and gradients; and what weights must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from vitprobe_jax.errors import InputError
from vitprobe_jax.features.frozen import WEIGHTS, ImageTokens
from vitprobe_jax.probes.pooling import init_pooling, parse_pooling, patch_weights, pool

B, P, D = 3, 5, 12
LEARNED = ("abmilp_1", "abmilp_2_relu", "abmilp_3_gelu", "abmilp_4_tanh", "sa_abmilp", "attentive_1", "attentive_4")


def draw_tokens():
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(P), B).astype(np.float32)
    normal = rng.standard_normal((B, P, D)).astype(np.float32)
    cls = rng.standard_normal((B, D)).astype(np.float32)
    return ImageTokens(jnp.asarray(cls), jnp.asarray(normal), {name: jnp.asarray(weights) for name in WEIGHTS})


def draw_params(name):
    """At the start biases are zero; here nothing is."""
    params = init_pooling(jax.random.key(0), parse_pooling(name), D)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape).astype(np.float32), params)


class AbMILP(nn.Module):
    def __init__(self, depth, activation):
        super().__init__()
        layers = []
        for _ in range(depth - 1):
            layers += [nn.Linear(D, D), {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}[activation]()]
        self.predictor = nn.Sequential(*layers, nn.Linear(D, 1))

    def forward(self, z):
        weights = self.predictor(z).softmax(dim=1)
        return (weights * z).sum(dim=1), weights[..., 0]

    def of_library(self, named):
        *hidden, last = [layer for layer in self.predictor if isinstance(layer, nn.Linear)]
        pairs = {("logit", "kernel"): last.weight}
        for i, layer in enumerate(hidden):
            pairs |= {(f"hidden_{i}", "kernel"): layer.weight, (f"hidden_{i}", "bias"): layer.bias}
        return pairs


class SelfAttentionAbMILP(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D)
        self.abmilp = AbMILP(1, "relu")

    def forward(self, z):
        q, k, v = self.qkv(z).chunk(3, dim=-1)
        attn = (q @ k.transpose(1, 2) * D**-0.5).softmax(dim=-1)
        return self.abmilp(self.proj(attn @ v))

    def of_library(self, named):
        own = {("qkv", "kernel"): self.qkv.weight, ("projection", "kernel"): self.proj.weight}
        return own | {("projection", "bias"): self.proj.bias} | self.abmilp.of_library(named)


class Attentive(nn.Module):
    """Keys and values of every patch, as it is published: nothing folded."""

    def __init__(self, heads):
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(1, D))
        self.key, self.value = (nn.Linear(D, D, bias=False) for _ in range(2))

    def forward(self, z):
        k, v = (layer(z).reshape(B, P, self.heads, -1).transpose(1, 2) for layer in (self.key, self.value))
        q = self.query.reshape(1, self.heads, 1, -1)
        weights = (q @ k.transpose(2, 3) * (D / self.heads) ** -0.5).softmax(dim=-1)
        return (weights @ v).transpose(1, 2).reshape(B, D), weights[:, :, 0].mean(dim=1)

    def of_library(self, named):
        return {("query",): self.query, ("key",): self.key.weight, ("value",): self.value.weight}


def torch_module(name):
    kind, *rest = name.split("_")
    if kind == "abmilp":
        return AbMILP(int(rest[0]), *rest[1:] or ["relu"])
    return SelfAttentionAbMILP() if kind == "sa" else Attentive(int(rest[0]))


def as_torch(place, leaf):
    """The library's kernels are [inputs, outputs]; those of attentive probing outputs first, by head."""
    leaf = np.asarray(leaf)
    turned = leaf.reshape(-1, D) if place[0] in ("key", "value") else leaf.T if place[-1] == "kernel" else leaf
    return turned


@pytest.mark.parametrize("name", LEARNED)
def test_equals_a_torch_module_in_values_and_gradients(name):
    pooling, tokens, params = parse_pooling(name), draw_tokens(), draw_params(name)
    module = torch_module(name)
    flat = {tuple(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    theirs = module.of_library(params)
    assert theirs.keys() == flat.keys()
    with torch.no_grad():
        for place, parameter in theirs.items():
            parameter.copy_(torch.from_numpy(as_torch(place, flat[place]).copy()))
    expected, weights = module(torch.from_numpy(np.array(tokens.patches)))
    cotangent = np.random.default_rng(2).standard_normal((B, D)).astype(np.float32)
    expected.backward(torch.from_numpy(cotangent))

    @jax.jit
    def both(params):
        pooled, pull = jax.vjp(lambda params: pool(pooling, params, tokens), params)
        return pooled, patch_weights(pooling, params, tokens), pull(jnp.asarray(cotangent))[0]

    pooled, found, gradients = both(params)
    # float32 sums of a dozen numbers of order 1, through up to five layers.
    np.testing.assert_allclose(pooled, expected.detach().numpy(), atol=2e-5)
    np.testing.assert_allclose(found, weights.detach().numpy(), atol=2e-6)
    np.testing.assert_allclose(np.sum(found, axis=1), 1, atol=1e-6)
    assert np.std(found, axis=1).min() > 0.01
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        place = tuple(key.key for key in path)
        np.testing.assert_allclose(as_torch(place, leaf), theirs[place].grad.numpy(), atol=3e-5, err_msg=str(place))
    for parameter in set(module.parameters()) - set(theirs.values()):
        assert parameter.grad.abs().max() < 1e-6  # The bias of the logit: nothing hangs on it.


@pytest.mark.parametrize("name", ["abmilp_1", "abmilp_2_relu", "attentive_4"])
def test_zero_weights_are_the_mean(name):
    tokens, pooling = draw_tokens(), parse_pooling(name)
    zero = jax.tree.map(jnp.zeros_like, draw_params(name))
    weights = patch_weights(pooling, zero, tokens)
    np.testing.assert_array_equal(weights, patch_weights(parse_pooling("mean"), {}, tokens))
    if name != "attentive_4":  # Its values are zero then.
        mean = pool(parse_pooling("mean"), {}, tokens)
        np.testing.assert_allclose(pool(pooling, zero, tokens), mean, atol=1e-6)


@pytest.mark.parametrize("name", ["mean", *WEIGHTS])
def test_what_is_not_trained_is_a_weighted_sum(name):
    tokens, pooling = draw_tokens(), parse_pooling(name)
    weights = np.asarray(patch_weights(pooling, {}, tokens))
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    expected = np.einsum("bp,bpd->bd", weights.astype(float), np.asarray(tokens.patches, float))
    np.testing.assert_allclose(pool(pooling, {}, tokens), expected, atol=1e-6)


def test_cls_is_its_token():
    tokens = draw_tokens()
    np.testing.assert_array_equal(pool(parse_pooling("cls"), {}, tokens), tokens.cls)
    with pytest.raises(ValueError, match="no weights"):
        patch_weights(parse_pooling("cls"), {}, tokens)


@pytest.mark.parametrize("name", ["mean", "cls", *LEARNED, *WEIGHTS])
def test_names_are_read_back(name):
    assert parse_pooling(name).name == name


@pytest.mark.parametrize(
    "name", ["", "abmilp", "abmilp_5_relu", "abmilp_2", "abmilp_1_relu", "attentive_0", "attentive"]
)
def test_unknown_names(name):
    with pytest.raises(InputError, match=r"--representations.*abmilp_1.*cls_attention"):
        parse_pooling(name)


def test_heads_divide_the_features():
    with pytest.raises(InputError, match="attentive_5 has 5 heads"):
        init_pooling(jax.random.key(0), parse_pooling("attentive_5"), D)


def test_start():
    params = init_pooling(jax.random.key(3), parse_pooling("attentive_4"), 64)
    # 4096 numbers: deviations are 1% off.
    assert np.std(params["key"]) == pytest.approx(64**-0.5, rel=0.05)
    assert np.std(params["query"]) == pytest.approx(0.02, rel=0.3)
    assert params["query"].ndim == 2  # LARS scales it.


@pytest.mark.parametrize(("name", "shapes"), [("abmilp_3_relu", 5), ("sa_abmilp", 4)])
def test_abmilp_starts_as_torch_layers_do(name, shapes):
    """Uniform, with the bounds and the deviation of `nn.Linear`: the code of the paper leaves PyTorch's default."""
    width = 64
    params = init_pooling(jax.random.key(3), parse_pooling(name), width)
    leaves = jax.tree.leaves(params)
    assert len(leaves) == shapes
    torch.manual_seed(0)
    theirs = nn.Linear(width, width).weight.detach().numpy()
    for leaf in leaves:
        assert np.abs(leaf).max() <= width**-0.5
        assert np.ptp(leaf) > 1.8 * width**-0.5
        # Of 64 to 12,288 numbers; the smallest leaves are biases and the kernel of the logit.
        assert np.std(leaf) == pytest.approx((3 * width) ** -0.5, rel=0.02 if leaf.size > 1000 else 0.2)
        assert np.std(leaf) == pytest.approx(np.std(theirs), rel=0.03 if leaf.size > 1000 else 0.2)
