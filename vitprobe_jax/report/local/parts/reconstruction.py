"""Part reconstruction: what MAE's decoder makes of tokens without some features (Table 4)."""

import re
from collections.abc import Sequence

from vitprobe_jax.metrics.measurements import FEATURES
from vitprobe_jax.report.figures.illustration import Illustration, slug
from vitprobe_jax.report.local.pictures import are_pictures
from vitprobe_jax.report.measured import answers
from vitprobe_jax.report.measured.answers import Answer
from vitprobe_jax.report.measured.figures.photographs import picture_figure
from vitprobe_jax.report.measured.rows import PartTable, Row, backbones_of, features_title, values_by, variant_name
from vitprobe_jax.report.measured.tables import Column, Entry, Table, number_table
from vitprobe_jax.report.measured.view import PartView, Sources, illustration
from vitprobe_jax.report.sentences import number

_MADE = re.compile(r"(?P<features>.+) (?P<dropped>\d+) masked (?P<level>[\d.]+)")


def view(part: PartTable, sources: Sources) -> PartView:
    """The part on one data set."""
    rows = part.rows("mse", "psnr", "ssim")
    pictures = (_pictures(part, backbone, rows, sources) for backbone in backbones_of(sources.looks.shown(rows)))
    return PartView(_answer(rows), [one for one in pictures if one], [_table(rows)])


def _answer(rows: Sequence[Row]) -> Answer:
    errors = [row for row in rows if row.measure == "mse"] or list(rows)
    masked = max(row.level for row in errors)
    own = [row for row in errors if row.level == masked]
    sentences = []
    for backbone in backbones_of(own):
        of = {row.features: row for row in own if row.backbone == backbone}
        if "all" not in of:
            continue
        error = number(of["all"].value, 4)
        said = f"With {_percent(masked)} of the patches masked, {backbone} reconstructs with an MSE of {error}"
        changed = [
            f"{number(of[features].value, 4)} {features_title(features, of[features].dropped)}"
            for features in FEATURES
            if features != "all" and features in of
        ]
        sentences.append(f"{said}{''.join(f', {text}' for text in changed)}.")
    best = min((row for row in own if row.features == "all"), key=lambda row: row.value, default=own[0])
    more = f" {len(sentences) - 3} more backbones stand in the table." if len(sentences) > 3 else ""
    return Answer(
        number(best.value, 4),
        best.backbone,
        f"MSE with {_percent(masked)} masked",
        [*sentences[:3], *([more] if more else [])],
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _order(row: Row) -> tuple[int, int]:
    return FEATURES.index(row.features), row.dropped


def _table(rows: Sequence[Row]) -> Table:
    values = values_by(rows, "backbone", "features", "dropped", "level", "measure")
    entries = []
    for level in sorted({row.level for row in rows}):
        for backbone in backbones_of(rows):
            own = sorted((row for row in rows if (row.backbone, row.level) == (backbone, level)), key=_order)
            for features, dropped in dict.fromkeys((row.features, row.dropped) for row in own):
                entries.append(
                    Entry(
                        variant_name(backbone, features, dropped),
                        [values.get((backbone, features, dropped, level, name)) for name in ("mse", "psnr", "ssim")],
                        backbone,
                        own[0].untrained,
                        group=f"{_percent(level)} of the patches masked",
                    )
                )
    columns = [Column("MSE", "lower", 4), Column("PSNR, dB", "higher", 2), Column("SSIM")]
    note = "Images in [0, 1]; the whole prediction counts, visible patches too. Means over tiles. Table 4 of the paper."
    return number_table(
        "Reconstructions without some features", "Backbone", columns, entries, note=note, best_in_group=True
    )


def _pictures(part: PartTable, backbone: str, rows: Sequence[Row], sources: Sources) -> Illustration | None:
    """The first tiles and what the decoder made of them; None without pictures."""
    arrays = sources.pictures(part, backbone, are_pictures)
    made = {}
    for name, array in arrays.items():
        found = _MADE.fullmatch(name)
        if found and found["features"] in FEATURES and array.ndim == 4:
            made[float(found["level"]), FEATURES.index(found["features"]), int(found["dropped"])] = array
    if not made:
        return None
    shown = {"image": arrays["image"]}
    for (level, features, dropped), array in sorted(made.items(), key=lambda one: one[0]):
        shown[f"{features_title(FEATURES[features], dropped)}, {_percent(level)} masked"] = array
    errors = {
        f"{features_title(row.features, row.dropped)}, {_percent(row.level)} masked": row.value
        for row in rows
        if row.backbone == backbone and row.measure == "mse"
    }
    return illustration(
        part,
        slug(backbone),
        picture_figure(shown),
        title=f"What the decoder of {backbone} makes of the first held-out tiles",
        caption="Above each line: which features the decoder is given, and how much of the image was masked. Table 4 of the "
        "paper.",
        alt=answers.numbers_in_words(errors, "On photographs. MSE over all tiles", decimals=4),
        photographs=True,
    )
