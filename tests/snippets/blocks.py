"""What a page of Markdown tells its reader to run: fenced blocks, their commands, and commands within the text."""

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>\S*).*\n(?P<text>(?:.*\n)*?)(?P=indent)(?P=ticks) *$", re.M
)
_MODULE = re.compile(
    r"\bpython3? -m (?P<module>(?:experiments|vitprobe_jax|checkpoints_convert|tests\.data)\b[\w.]*)(?P<rest>.*)"
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: the page it stands on, the line of its fence, its language and its text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def read_blocks(path: Path, page: str) -> list[Block]:
    """All fenced blocks of a page, in its order."""
    content = path.read_text()
    found = []
    for match in _FENCE.finditer(content):
        text = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.M)
        found.append(Block(page, content.count("\n", 0, match.start()) + 1, match["language"], text))
    return found


def commands(text: str) -> list[str]:
    """A shell block as its commands; one that goes on over several lines, by a backslash or within quotes, is one."""
    found, begun = [], ""
    for line in text.splitlines():
        begun += line
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:  # within quotes
            begun += "\n"
            continue
        if begun.endswith("\\"):
            begun += "\n"
            continue
        if words:
            found.append(begun.strip())
        begun = ""
    assert not begun.strip(), f"a command that never ends: {begun}"
    return found


def module_calls(content: str) -> Iterator[tuple[str, list[str]]]:
    """Every `python -m MODULE ...` of this project on a page, as (module, arguments): in blocks, in quotes, in the text.

    A command ends at a backtick, at a quote that was opened before it, at `&&`, `>`, `|`, `;`, `&`, or at a comment. `...`,
    where the page leaves something to the reader, is no argument.
    """
    joined = re.sub(r"\\\n\s*", " ", content)
    for line in joined.splitlines():
        for match in _MODULE.finditer(line):
            before, rest = line[: match.start()].rpartition("`")[2], match["rest"].split("`")[0]
            for quote in "'\"":
                if before.count(quote) % 2:
                    rest = rest.split(quote)[0]
            rest = re.split(r"(?:^|\s)(?:&&|2?>|\||;|&|#)(?:\s|$)", rest)[0]
            yield match["module"], [word for word in shlex.split(rest) if word != "..."]
