"""The heads of `heads` in PyTorch: as modules, and stacked by hand in the library's own mathematics."""

from collections.abc import Sequence

import jax
import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from vitprobe_jax.features.table import make_mesh
from vitprobe_jax.probes.head_optimizers import TRUST
from vitprobe_jax.probes.heads import EPSILON, HeadsConfig, init_heads
from vitprobe_jax.probes.pooling import Pooling

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""[CLS] tokens [B, D], patches [B, P, D], labels [B]."""


def train_modules(heads: HeadsConfig, batches: Sequence[Batch], *, together: bool) -> Float[np.ndarray, "heads steps"]:
    """Loss curves of all members of all heads, in one pass over the batches or one pass each."""
    modules = [
        (Head(pooling, jax.tree.map(lambda leaf, i=i: leaf[i], params)), rate)
        for pooling, params in _start(heads)
        for i, (rate, _) in enumerate(heads.members)
    ]
    groups = [modules] if together else [[pair] for pair in modules]
    return np.concatenate([_train(group, heads, batches) for group in groups])


def _start(heads: HeadsConfig):
    """Every representation with the library's parameters [M, ...] at the start."""
    params = jax.tree.map(np.array, init_heads(heads, make_mesh(jax.local_devices()[:1])).params)
    return [(pooling, params[pooling.name]) for pooling in heads.poolings]


def _train(modules, heads: HeadsConfig, batches):
    momenta = [{p: torch.zeros_like(p) for p in module.parameters()} for module, _ in modules]
    curves = []
    for step, (cls, patches, labels) in enumerate(batches):
        losses = torch.stack([functional.cross_entropy(module(cls, patches), labels) for module, _ in modules])
        losses.sum().backward()
        for (_, rate), own in zip(modules, momenta, strict=True):
            for p, momentum in own.items():
                _take_step(p[None], p.grad[None], momentum[None], torch.tensor([rate]) * _share(step, heads))
                p.grad = None
        curves.append(losses.detach().numpy())
    return np.stack(curves, axis=1)


def _share(step: int, heads: HeadsConfig) -> float:
    """Of the peak rate: half a cosine."""
    return 0.5 * (1 + np.cos(np.pi * step / heads.steps))


@torch.no_grad()
def _take_step(p, gradient, momentum, rates) -> None:
    """LARS in place, of members along the first axis: matrices alone are scaled."""
    over = (-1,) + (1,) * (p.ndim - 1)
    if p.ndim > 2:
        size, length = (leaf.flatten(1).norm(dim=1) for leaf in (p, gradient))
        gradient = gradient * torch.where((size > 0) & (length > 0), TRUST * size / length, 1.0).view(over)
    momentum.mul_(0.9).add_(gradient)
    p.sub_(rates.float().view(over) * momentum)


class Head(nn.Module):
    """A representation, a BatchNorm and a linear classifier, as one would write them."""

    def __init__(self, pooling: Pooling, params):
        super().__init__()
        width, classes = params["classifier"]["kernel"].shape
        makers = {"mean": Mean, "cls": Cls, "abmilp": AbMILP, "attentive": Attentive}
        self.representation = makers[pooling.kind](pooling, params["pooling"])
        self.norm = nn.BatchNorm1d(width, affine=False, eps=EPSILON)
        self.classifier = nn.Linear(width, classes)
        _fill(self.classifier, params["classifier"]["kernel"].T)

    def forward(self, cls, patches):
        return self.classifier(self.norm(self.representation(cls, patches)))


class _Untrained(nn.Module):
    def __init__(self, pooling, params):
        super().__init__()


class Mean(_Untrained):
    """The mean of the patches."""

    def forward(self, cls, patches):
        return patches.mean(dim=1)


class Cls(_Untrained):
    """The [CLS] token."""

    def forward(self, cls, patches):
        return cls


class AbMILP(nn.Module):
    """One linear layer to the logits of the weights."""

    def __init__(self, pooling, params):
        super().__init__()
        kernel = params["logit"]["kernel"]
        self.logit = nn.Linear(len(kernel), 1)
        _fill(self.logit, kernel.T)

    def forward(self, cls, patches):
        weights = self.logit(patches).softmax(dim=1)
        return (weights.transpose(1, 2) @ patches).squeeze(1)


class Attentive(nn.Module):
    """A learned query that attends to keys and values of all patches."""

    def __init__(self, pooling, params):
        super().__init__()
        width = params["query"].shape[1]
        self.heads = pooling.heads
        self.query = nn.Parameter(torch.from_numpy(params["query"]))
        self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(2))
        _fill(self.key, params["key"].reshape(width, width))
        _fill(self.value, params["value"].reshape(width, width))

    def forward(self, cls, patches):
        batch, length, width = patches.shape
        k, v = (layer(patches).view(batch, length, self.heads, -1).transpose(1, 2) for layer in (self.key, self.value))
        q = self.query.view(1, self.heads, 1, -1).expand(batch, -1, -1, -1)
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, width)


@torch.no_grad()
def _fill(layer: nn.Linear, weight: np.ndarray) -> None:
    layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
    if layer.bias is not None:
        layer.bias.zero_()


def train_stacked(heads: HeadsConfig, batches: Sequence[Batch]) -> Float[np.ndarray, "heads steps"]:
    """The same curves from stacked parameters: all that is linear in the patches is two products, as in the library."""
    leaves = {}
    for pooling, params in _start(heads):
        flat = params["classifier"] | {name: leaf for name, leaf in params["pooling"].items() if name != "logit"}
        if pooling.kind == "abmilp":
            flat["logit"] = params["pooling"]["logit"]["kernel"].transpose(0, 2, 1)
        leaves[pooling] = {name: torch.from_numpy(leaf).contiguous().requires_grad_() for name, leaf in flat.items()}
    rates = torch.tensor([rate for rate, _ in heads.members])
    trained = [leaf for own in leaves.values() for leaf in own.values()]
    momenta = [torch.zeros_like(leaf) for leaf in trained]
    curves = []
    for step, (cls, patches, labels) in enumerate(batches):
        losses = torch.cat([_stacked_losses(*head, labels) for head in _stacked_vectors(leaves, cls, patches)])
        losses.sum().backward()
        for p, momentum in zip(trained, momenta, strict=True):
            _take_step(p, p.grad, momentum, rates * _share(step, heads))
            p.grad = None
        curves.append(losses.detach().numpy())
    return np.stack(curves, axis=1)


def _stacked_vectors(leaves, cls, patches):
    """Vectors [B, m, D] of every representation, m = 1 for all members where nothing is trained, with its leaves."""
    columns = {pooling: _columns(pooling, own) for pooling, own in leaves.items() if pooling.is_trained}
    weights = (patches @ torch.cat(list(columns.values())).T).softmax(dim=1)
    sums = (weights.transpose(1, 2) @ patches).split([len(leaf) for leaf in columns.values()], dim=1)
    sums = dict(zip(columns, sums, strict=True))
    for pooling, own in leaves.items():
        if pooling.kind == "attentive":
            by_head = sums[pooling].unflatten(1, (-1, pooling.heads))
            yield torch.einsum("bmhd,mhed->bmhe", by_head, own["value"]).flatten(2), own
        else:
            yield sums.get(pooling, (cls if pooling.kind == "cls" else patches.mean(dim=1))[:, None]), own


def _columns(pooling, own):
    if pooling.kind == "abmilp":
        return own["logit"][:, 0]
    query = own["query"].unflatten(2, (pooling.heads, -1))[:, 0]
    return torch.einsum("mhed,mhe->mhd", own["key"], query).flatten(0, 1) * query.shape[-1] ** -0.5


def _stacked_losses(vectors_BxmxD, own, labels):
    normal = functional.batch_norm(vectors_BxmxD.flatten(1), None, None, training=True, eps=EPSILON)
    normal = normal.view(vectors_BxmxD.shape).transpose(0, 1).expand(len(own["kernel"]), -1, -1)
    logits_MxBxC = torch.baddbmm(own["bias"][:, None], normal, own["kernel"])
    losses = functional.cross_entropy(logits_MxBxC.flatten(0, 1), labels.repeat(len(logits_MxBxC)), reduction="none")
    return losses.view(len(logits_MxBxC), -1).mean(dim=1)
