"""Part corruptions: what is left of the mIoU on images that are blurred or noisy (Figs 4 and 10)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vitprobe_jax.data.corruptions import FREQUENCY_DEVIATION, NUM_BANDS
from vitprobe_jax.report.figures.illustration import Illustration, caption, slug
from vitprobe_jax.report.figures.painting import Block, Tile, tile_figure
from vitprobe_jax.report.local.changes import changes
from vitprobe_jax.report.local.methods import method_title, method_titles, methods_of, told_by
from vitprobe_jax.report.local.parts.patches import count_words, draw_words, main_methods
from vitprobe_jax.report.local.pictures import are_pictures
from vitprobe_jax.report.measured import answers
from vitprobe_jax.report.measured.answers import Answer
from vitprobe_jax.report.measured.figures.lines import Panel, line_figure, over
from vitprobe_jax.report.measured.figures.looks import variants_note
from vitprobe_jax.report.measured.figures.photographs import shrunk
from vitprobe_jax.report.measured.rows import PartTable, Row, backbones_of, drops_of, values_by
from vitprobe_jax.report.measured.tables import Column, Table, every_cell, number_table, variant_entries
from vitprobe_jax.report.measured.view import PartView, Sources, illustration
from vitprobe_jax.report.sentences import number

KINDS = {"blur": "blur (kernel, px)", "noise": "noise (deviation)", "frequency": "frequency band"}
CLEAN = "clean"
_CLEAN_LEVEL = -1.0
_CONTRAST = 2
"""Of the pictures of noise: the weakest band would hardly be seen otherwise."""


def view(part: PartTable, sources: Sources) -> PartView:
    """The part on one data set."""
    scores, lost = part.rows("miou"), part.rows("relative_drop")
    illustrations = [_figure(part, method, scores, lost, sources) for method in methods_of(scores)]
    illustrations += _band_figure(part, scores, sources)
    tables = [
        _summary(scores, lost),
        _levels(scores),
        *every_cell(part, "relative_drop", "mean relative drop", method_titles, better="lower"),
    ]
    return PartView(_answer(scores, lost), illustrations, tables)


def _answer(scores: Sequence[Row], lost: Sequence[Row]) -> Answer:
    if not lost:
        method = main_methods(scores)[0]
        found = answers.standings([row for row in scores if row.method == method])
        best = answers.leader(found)
        said = answers.leads(found, f"On clean images, {told_by(method)}", "an mIoU")
        return Answer(number(best.value), best.name, f"mIoU {told_by(method)}", [said])
    sentences, best = [], None
    for method in main_methods(lost):
        found = answers.standings([row for row in lost if row.method == method])
        best = best or answers.leader(found, lower=True)
        what = "a mean relative drop of the mIoU"
        lead = answers.leads(found, f"Over all kinds and levels, {told_by(method)}", what, lower=True)
        sentences.append(caption(lead, changes(found, "that drop")))
    what = f"mean relative drop of the mIoU {told_by(main_methods(lost)[0])}"
    return Answer(number(best.value), best.name, what, sentences)


def _kinds(rows: Sequence[Row]) -> list[str]:
    present = {row.setting for row in rows}
    return [kind for kind in KINDS if kind in present]


def _figure(part: PartTable, method: str, scores: Sequence[Row], lost: Sequence[Row], sources: Sources) -> Illustration:
    scores, lost = ([row for row in sources.looks.shown(rows) if row.method == method] for rows in (scores, lost))
    drops = drops_of(scores)
    panels = [_panel(kind, scores, "mIoU", sources, drops) for kind in _kinds(scores)]
    panels += [_panel(kind, lost, "relative drop", sources, drops) for kind in _kinds(scores)]
    means = {(*place,): value for place, value in values_by(lost, "variant", "setting").items()}
    return illustration(
        part,
        slug(method),
        line_figure(panels, sources.looks.keys(scores), columns=max(len(_kinds(scores)), 1)),
        title=f"mIoU of corrupted images {told_by(method)}, and its relative drop",
        caption=caption(
            f"{draw_words(scores)}, all of them clean; {count_words(scores)}. Relative drop: the share of the clean images' "
            "mIoU that is lost. Blur: side of the square kernel in pixels. Noise: standard deviation in grey levels of 255. "
            "Frequency bands: noise in one of four rings of the spectrum, 0 the lowest.",
            variants_note(scores),
            sources.looks.note,
            "Figure 4 of the paper.",
        ),
        alt=answers.numbers_in_words({" ".join(place): value for place, value in means.items()}, "Mean relative drop"),
    )


def _band_figure(part: PartTable, rows: Sequence[Row], sources: Sources) -> list[Illustration]:
    """Noise in each band, its mask and an image with it; none where the run has no such pictures."""
    pictures = next((found for one in backbones_of(rows) if (found := sources.pictures(part, one, are_pictures))), {})
    bands = range(NUM_BANDS)
    wanted = ["image", *(f"{kind} {band}" for kind in ("noise", "mask", "corrupted") for band in bands)]
    if not pictures or any(name not in pictures for name in wanted):
        return []
    edges = [0.5 * band / NUM_BANDS for band in range(NUM_BANDS + 1)]
    named = [f"band {band}" for band in bands]
    ranges = [f"{edges[band]:g} to {edges[band + 1]:g} cycles a pixel" for band in bands]
    ranges[-1] = f"{edges[-2]:g} cycles a pixel and more"

    def tile(name: str, *above: str) -> Tile:
        return Tile(shrunk(_colours(name, pictures[name][0])), above, ())

    nothing = Tile(None, (), ())
    blocks = [
        Block(
            "Image with the noise",
            [tile("image", "no noise"), *(tile(f"corrupted {band}", named[band]) for band in bands)],
        ),
        Block("Noise", [nothing, *(tile(f"noise {band}") for band in bands)]),
        Block("Frequencies that are kept", [nothing, *(tile(f"mask {band}") for band in bands)]),
    ]
    return [
        illustration(
            part,
            "bands",
            tile_figure(blocks, pinned=None, columns=NUM_BANDS + 1),
            title="Noise in four bands of frequencies",
            caption="The middle of the first held-out image. White noise of deviation "
            f"{FREQUENCY_DEVIATION:g} grey levels of 255 is filtered by the mask of a band and added to the image, not "
            f"rescaled. The noise alone is shown about mid grey, with {_CONTRAST} times its contrast. Masks show in white "
            "which frequencies are kept; the lowest are in the middle, half a cycle a pixel along an axis at the edges. "
            "Figure 10 of the paper. Only that figure has the edges of the paper's bands; here three rings are "
            "equally wide, up to three quarters of half a cycle, and the fourth is all beyond.",
            alt="; ".join(f"{name}: {text}" for name, text in zip(named, ranges, strict=True)) + ".",
            photographs=True,
        )
    ]


def _colours(name: str, picture: np.ndarray) -> np.ndarray:
    """A picture as it is shown: noise with more contrast, a mask in black and white."""
    if name.startswith("noise"):
        return np.clip(128 + _CONTRAST * (picture.astype(int) - 128), 0, 255).astype(np.uint8)
    return picture if picture.ndim == 3 else np.repeat(np.uint8(255) * (picture[..., None] > 0), 3, axis=-1)


def _panel(kind: str, rows: Sequence[Row], ylabel: str, sources: Sources, drops: Sequence[int]) -> Panel:
    own = [row for row in rows if row.setting == kind]
    clean = [dataclasses.replace(row, level=_CLEAN_LEVEL) for row in rows if row.setting == CLEAN]
    levels = sorted({row.level for row in [*own, *clean]})
    return over(
        [*clean, *own],
        sources.looks,
        title=kind,
        xlabel=KINDS[kind],
        ylabel=ylabel,
        field="level",
        order=levels,
        names=lambda level: CLEAN if level == _CLEAN_LEVEL else f"{level:g}",
        drops=drops,
    )


def _summary(scores: Sequence[Row], lost: Sequence[Row]) -> Table:
    kinds, entries = _kinds(scores), []
    for method in methods_of(scores):
        own = [row for row in scores if row.method == method]
        values = values_by([row for row in own if row.setting == CLEAN], "backbone", "dropped", "setting")
        values |= values_by([row for row in lost if row.method == method], "backbone", "dropped", "setting")
        entries += variant_entries(own, values, [(setting,) for setting in (CLEAN, *kinds)], method_title(method))
    columns = [Column("mIoU of clean images"), *(Column(f"Relative drop, {kind}", "lower") for kind in kinds)]
    note = "Relative drops are means over the levels of a kind."
    return number_table("What corruption costs", "Backbone", columns, entries, note=note, best_in_group=True)


def _levels(scores: Sequence[Row]) -> Table:
    kinds = _kinds(scores)
    places = [(kind, level) for kind in kinds for level in sorted({row.level for row in scores if row.setting == kind})]
    entries = []
    for method in methods_of(scores):
        own = [row for row in scores if row.method == method]
        values = values_by(own, "backbone", "dropped", "setting", "level")
        entries += variant_entries(own, values, places, method_title(method))
    columns = [Column(f"{kind} {level:g}") for kind, level in places]
    return number_table("mIoU at every level", "Backbone", columns, entries, folded=True, best_in_group=True)
