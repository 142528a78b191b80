"""What leaving out features changes, in a sentence."""

from collections.abc import Iterable, Sequence

from vitprobe_jax.report.measured.answers import Standing, changed


def changes(found: Sequence[Standing], what: str, *, decimals: int = 3) -> str:
    """What leaving out features of highest variance changes, in a sentence; "" where no backbone was measured both ways.

    Of several variants the one that leaves out most speaks.

    Args:
        found: of one kind.
        what: the measure, with its article: `the mIoU of 1-NN`.
        decimals: of numbers.
    """
    pairs = _pairs(found)
    if not pairs:
        return ""
    removed = {after.dropped for _, after in pairs}
    counted = f"{removed.pop()} features" if len(removed) == 1 else "features"
    said = changed([(before.name, before.value, after.value) for before, after in pairs], decimals=decimals)
    return f"Leaving out the {counted} of highest variance changes {what} by {said}."


def _pairs(found: Iterable[Standing]) -> list[tuple[Standing, Standing]]:
    """Of each backbone, all features and the variant that leaves out most."""
    by_backbone: dict[str, list[Standing]] = {}
    for own in found:
        by_backbone.setdefault(own.backbone, []).append(own)
    ranked = [sorted(own, key=lambda one: one.dropped) for own in by_backbone.values()]
    return [(own[0], own[-1]) for own in ranked if own[0].dropped == 0 and own[-1].dropped > 0]
