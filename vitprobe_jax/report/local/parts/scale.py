"""Part scale: whether images are known again from farther off, by [CLS] and by the mean of the patches (Fig. 8)."""

from collections.abc import Sequence

from vitprobe_jax.report.figures.illustration import Illustration, caption
from vitprobe_jax.report.local.changes import changes
from vitprobe_jax.report.local.methods import method_title, methods_of
from vitprobe_jax.report.local.parts.patches import main_methods
from vitprobe_jax.report.measured import answers
from vitprobe_jax.report.measured.answers import Answer
from vitprobe_jax.report.measured.figures.lines import line_figure, over
from vitprobe_jax.report.measured.figures.looks import variants_note
from vitprobe_jax.report.measured.rows import PartTable, Row, drops_of, values_by
from vitprobe_jax.report.measured.tables import Column, Table, number_table, variant_entries
from vitprobe_jax.report.measured.view import PartView, Sources, illustration
from vitprobe_jax.report.sentences import number

WEIGHTED = "20-nn weighted"
"""The k-NN of Scale-MAE's code, which the paper's figure follows."""
POOLS = {"class": "[CLS]", "mean": "the mean of the patches"}


def view(part: PartTable, sources: Sources) -> PartView:
    """The part on one data set."""
    rows = [row for row in part.rows("accuracy") if row.name in POOLS]
    return PartView(_answer(rows), [_figure(part, rows, sources)], [_table(rows)])


def _pools(rows: Sequence[Row]) -> list[str]:
    present = {row.name for row in rows}
    return [pool for pool in POOLS if pool in present]


def _main_method(rows: Sequence[Row]) -> str:
    """The method that sentences are about: Scale-MAE's own, where it was measured."""
    return WEIGHTED if any(row.method == WEIGHTED for row in rows) else main_methods(rows)[0]


def _answer(rows: Sequence[Row]) -> Answer:
    method = _main_method(rows)
    own = [row for row in rows if row.method == method]
    sentences, best, name = [], None, ""
    for pool in _pools(own):
        found = answers.standings([row for row in own if row.name == pool])
        where = f"Over all distances, by {method_title(method)} of {POOLS[pool]}"
        lead = answers.leads(found, where, "an accuracy")
        sentences.append(caption(lead, changes(found, "that accuracy")))
        leader = answers.leader(found)
        if best is None or leader.value > best.value:
            best, name = leader, POOLS[pool]
    what = f"accuracy by {method_title(method)} of {name}, mean over distances"
    return Answer(number(best.value), best.name, what, sentences)


def _figure(part: PartTable, rows: Sequence[Row], sources: Sources) -> Illustration:
    shown = sources.looks.shown(rows)
    distances, drops, methods = sorted({row.level for row in rows}), drops_of(shown), methods_of(rows)
    panels = [
        over(
            [row for row in shown if (row.name, row.method) == (pool, method)],
            sources.looks,
            title=f"{POOLS[pool]}, {method_title(method)}" if len(methods) > 1 else POOLS[pool],
            xlabel="metres a pixel",
            ylabel="accuracy",
            field="level",
            order=distances,
            drops=drops,
        )
        for method in methods
        for pool in _pools(rows)
    ]
    said = {
        f"{row.variant} {POOLS[row.name]} at {row.level:g} m": row.value
        for row in shown
        if row.method == _main_method(rows)
    }
    return illustration(
        part,
        "distances",
        line_figure(panels, sources.looks.keys(shown), columns=2),
        title="Accuracy over the ground sample distance",
        caption=caption(
            f"{' and '.join(map(method_title, methods))} among the training images at the same distance, over "
            f"{max(row.count for row in rows):,} held-out images.",
            variants_note(shown),
            f"{method_title(WEIGHTED)}: the k-NN of Scale-MAE's code, cosines s vote with a weight of exp(s / 0.07)."
            if WEIGHTED in methods
            else "",
            sources.looks.note,
            "Figure 8 of the paper.",
        ),
        alt=answers.numbers_in_words(said, "Accuracy"),
    )


def _table(rows: Sequence[Row]) -> Table:
    distances, methods, entries = sorted({row.level for row in rows}), methods_of(rows), []
    for method in methods:
        for pool in _pools(rows):
            own = [row for row in rows if (row.name, row.method) == (pool, method)]
            values = values_by(own, "backbone", "dropped", "level")
            entries += variant_entries(
                own, values, [(distance,) for distance in distances], f"{method_title(method)} of {POOLS[pool]}"
            )
    columns = [Column(f"{distance:g} m a pixel") for distance in distances]
    return number_table("Accuracy", "Backbone", columns, entries, best_in_group=True)
