"""What every page of a report is made of: templates and their style, figures in it and as files beside it."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from importlib import resources

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
from etils import epath
from markupsafe import Markup

from vitprobe_jax.atomic import write_whole
from vitprobe_jax.errors import InputError
from vitprobe_jax.report import figures
from vitprobe_jax.report.rule_words import RULE_WORDS


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure as the page shows it.

    Attributes:
        name: stem of its files in `figures/`.
        sweep: label of the sweep it is about.
        illustration: the figure with its words.
        body: SVG text.
    """

    name: str
    sweep: str
    illustration: figures.Illustration
    body: Markup

    @classmethod
    def of(cls, illustration: figures.Illustration, name: str, sweep: str) -> "Picture":
        """Draws a figure."""
        return cls(name, sweep, illustration, Markup(figures.svg(illustration.figure, name)))


def write_page(folder: epath.PathLike, html: str, pictures: Sequence[Picture]) -> epath.Path:
    """Writes `report/index.html` and `report/figures/` into a results folder; returns the path of the page.

    Each file is written whole or not at all, the page last. Files in `report/figures` that are no figure of this report
    and end in .png or .svg are removed: they belong to an earlier one.

    Raises:
        InputError: the folder is not writable.
    """
    report = epath.Path(folder) / "report"
    path = report / "index.html"
    try:
        (report / "figures").mkdir(parents=True, exist_ok=True)
        written = {f"{picture.name}{suffix}" for picture in pictures for suffix in (".png", ".svg")}
        for picture in pictures:
            figures.save(picture.illustration.figure, report / "figures", picture.name)
        for former in (report / "figures").iterdir():
            if former.suffix in (".png", ".svg") and former.name not in written:
                former.unlink()
        write_whole(path, html.encode())
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); free the place or its permissions") from error
    return path


def run_view(label: str, config: Mapping, run: Mapping) -> dict:
    """What the section on the run says of a results folder.

    Args:
        label: what the page calls it.
        config: every flag as resolved.
        run: `versions`, `devices`, `seed`, `stages` and `notes`.
    """
    return {
        "label": label,
        "config": _flatten(config),
        "environment": _flatten({"seed": run["seed"], "devices": run["devices"], "versions": run["versions"]}),
        "stages": run["stages"],
        "notes": run["notes"],
    }


def distinct(table: pa.Table, column: str) -> list:
    """The values of a column in their order, nulls left out."""
    return pc.unique(table[column].drop_null()).to_pylist()


@functools.cache
def asset(name: str) -> str:
    """The text of a file of the report's: style or script."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@functools.cache
def environment() -> jinja2.Environment:
    """Templates by their path in this package; whatever they are given becomes text, never markup."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("vitprobe_jax.report", "."),
        autoescape=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters["group_in_order"] = _group_in_order
    made.filters["rule_words"] = lambda rule: RULE_WORDS.get(rule, rule.replace("_", " "))
    made.globals["p_value"] = lambda value: "< 0.001" if value < 0.001 else f"{value:.3f}"
    return made


def _flatten(record: Mapping, prefix: str = "") -> dict[str, str]:
    """Names and values as text; nested names are joined by a dot."""
    flat = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            flat[prefix + name] = ", ".join(map(str, value))
        else:
            flat[prefix + name] = "" if value is None else str(value)
    return flat


def _group_in_order(rows: Sequence[Mapping], *names: str) -> list[tuple[tuple, list[Mapping]]]:
    """Rows that agree in these names, in the order of their first ones."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(groups.items())
