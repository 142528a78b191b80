"""Names the kind of a file that is not a checkpoint by its first bytes: such files often carry a checkpoint's name."""

import re
from pathlib import Path

_START = 512


def not_weights(path: Path) -> str | None:
    """What a file is, and what to do, where it is empty, a Git LFS pointer, a web page or text; None for anything else.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_START)
    if not start:
        return "an empty file; download it again"
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer, not the file that it points to; fetch that with `git lfs pull`"
    if re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|\?xml)", start, re.IGNORECASE):
        return "a web page, not a checkpoint; download the file itself (a login or a licence may stand before it)"
    if start.startswith(b"PK"):
        return None  # A zip archive, as torch writes, however short.
    try:
        text = start.decode("utf-8", errors="strict" if len(start) < _START else "ignore")
    except UnicodeDecodeError:
        return None
    if len(text) > 1 and all(letter.isprintable() or letter in "\t\r\n\f" for letter in text):
        return f"text ({text.split(chr(10))[0].strip()[:40]!r} ...), not a checkpoint; download the file itself"
    return None
