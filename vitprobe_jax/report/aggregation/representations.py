"""Representations of study 3: their order, and what the page calls them."""

from collections.abc import Iterable

from vitprobe_jax.report.measured.rows import Row

_FIXED = {"mean": "patch mean", "cls": "[CLS]"}
_TRAINED = {"abmilp": "AbMILP", "sa_abmilp": "SA-AbMILP", "attentive": "attentive"}
_GIVEN = {
    "cls_attention": "[CLS] attention",
    "lowest_entropy_cls": "[CLS] head of lowest entropy",
    "central_patch": "central patch's attention",
    "other_cls_attention": "another model's [CLS] attention",
}
ACTIVATIONS = {"relu": "ReLU", "gelu": "GELU", "tanh": "tanh"}
"""What activations of an AbMILP are called."""
REFERENCE = "abmilp_1"
"""The trained aggregation that others are held against."""


def title(name: str) -> str:
    """A representation as the page names it; one that there is not keeps its name."""
    if name in _FIXED or name in _GIVEN or name in _TRAINED:
        return (_FIXED | _GIVEN | _TRAINED)[name]
    kind, depth_or_heads, activation = _parts(name)
    if kind == "attentive" and depth_or_heads:
        return f"{_TRAINED[kind]} ({depth_or_heads} head{'' if depth_or_heads == 1 else 's'})"
    if name == REFERENCE:
        return _TRAINED[kind]
    if kind == "abmilp" and depth_or_heads and activation in ACTIVATIONS:
        return f"{_TRAINED[kind]} (depth {depth_or_heads}, {ACTIVATIONS[activation]})"
    return name


def in_order(names: Iterable[str]) -> list[str]:
    """Representations as the page lists them: mean, [CLS], given weights, trained ones by depth or heads, others."""
    return sorted(set(names), key=_rank)


def titles(rows: Iterable[Row]) -> dict[str, str]:
    """What the representations of some rows are called, in their order."""
    return {name: title(name) for name in in_order(row.method for row in rows if row.method is not None)}


def abmilp_shape(name: str) -> tuple[int, str] | None:
    """Depth and activation, "" for depth 1, of an AbMILP; None of anything else."""
    kind, depth, activation = _parts(name)
    return (depth, activation) if kind == "abmilp" and depth else None


def _parts(name: str) -> tuple[str, int, str]:
    """`abmilp_2_relu` as kind, number and activation; 0 and "" where a name has none."""
    kind, _, rest = name.partition("_")
    number, _, activation = rest.partition("_")
    return (kind, int(number), activation) if number.isdecimal() else (name, 0, "")


def _rank(name: str) -> tuple[int, int, str]:
    kind, number, activation = _parts(name)
    for group, known in enumerate((_FIXED, _GIVEN, _TRAINED)):
        if kind in known:
            return 10 * group + list(known).index(kind), number, activation
    return 100, number, name
