"""Official checkpoint files, fetched once into a folder of this machine and checked at every use.

Each URL has a folder of its own below the cache, since hosts give different models one file name:

    CACHE/HOST-xxxxxxxx/NAME             the file, under its official name, only ever whole
    CACHE/HOST-xxxxxxxx/NAME.json        its url, size in bytes, sha256 and validator, recorded at its first use
    CACHE/HOST-xxxxxxxx/NAME.part        what has arrived so far; the next call goes on from there
    CACHE/HOST-xxxxxxxx/NAME.part.json   size and validator (ETag or Last-Modified) of the file that the part is of
    CACHE/HOST-xxxxxxxx/writer.lock      held while a process downloads; others wait and then find the file

The record outlives its file: a file that is deleted and downloaded again must be the one that was recorded, until the
record is deleted too. Checking reads the whole file, a few seconds for 4 GB.
"""

import dataclasses
import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from absl import logging
from etils import epath
from tqdm import tqdm

from vitprobe_jax.atomic import write_whole
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.lock import only_writer
from vitprobe_jax.version import __version__

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each new attempt; they start over whenever an attempt has brought the file further."""
TIMEOUT = 20.0
"""Seconds for a connection, and for silence on one."""
_BLOCK = 1 << 18
# Answers that are worth another attempt: the server is slow or busy, or fails (5xx).
_PASSING = (408, 425, 429)
_ELSEWHERE = "fetch it elsewhere and give it by --input=FILE"


class _DropError(Exception):
    """An attempt ended before the file was whole; the next one may go on. The message is the reason, in a few words."""


class _UnreachableError(_DropError):
    """No connection came about."""


class _WrongFileError(Exception):
    """A file that is whole is not the one that was published or recorded. The message says in what."""


@dataclasses.dataclass(frozen=True)
class _Fetch:
    """What the attempts at one file share.

    Attributes:
        url: where from.
        part: where to.
        timeout: in seconds.
        log: takes a line where a download begins, goes on or starts anew.
    """

    url: str
    part: Path
    timeout: float
    log: Callable[[str], None]

    @property
    def notes(self) -> Path:
        return self.part.with_name(self.part.name + ".json")

    def have(self) -> int:
        """Bytes that have arrived."""
        return self.part.stat().st_size if self.part.exists() else 0


def download(
    url: str,
    cache_dir: Path | None = None,
    *,
    sha256: str = "",
    log: Callable[[str], None] = logging.info,
    waits: tuple[float, ...] = WAITS,
    timeout: float = TIMEOUT,
) -> Path:
    """Returns the official file of a URL, from the cache or else from the network, checked either way.

    Connections that drop are taken up where they ended, by a Range request that holds only for an unchanged file (If-Range);
    servers that cannot do this, or whose file has changed, send it from the start. Redirects and the environment variables
    for proxies (`HTTPS_PROXY`, `NO_PROXY`, ...) are followed. A progress bar shows on a terminal only. A second process
    that wants the same file waits for the first.

    Args:
        url: http or https; ends in the name of the file.
        cache_dir: where files are kept; `$XDG_CACHE_HOME/vitprobe_jax/checkpoints` unless given.
        sha256: published hash in hexadecimal, or its first digits. Where there is none, the hash at first use counts.
        log: takes the lines that say what is fetched and what was checked.
        waits: seconds before further attempts; so many in a row may bring nothing.
        timeout: seconds for a connection, and for silence on one.

    Raises:
        InputError: no network; a refusal; a file that does not come whole, or is not the published or recorded one (it is
            removed when it was just fetched); a folder that cannot be written, or a full disk. What has arrived is kept.
    """
    file = cached_path(url, cache_dir)
    try:
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            with only_writer(epath.Path(file.parent)):
                if not file.is_file():  # Still: another process may have brought it while this one waited.
                    fetch = _Fetch(url, file.with_name(file.name + ".part"), timeout, log)
                    _fetch_whole(fetch, waits)
                    _accept(fetch, file, sha256)
                    return file
        try:
            checked = _check(file, file, url, sha256)
        except _WrongFileError as error:
            raise InputError(f"{file}: no longer the file of {url}: {error}; delete it and --download again") from error
        log(f"{file}: downloaded before, {checked}")
        return file
    except OSError as error:
        raise InputError(
            f"--cache_dir: {file.parent} fails for {url} ({error.strerror or error}); make room and rights to write there, "
            "or give another folder; what has arrived is kept"
        ) from error


def cached_path(url: str, cache_dir: Path | None = None) -> Path:
    """Where `download` keeps the file of a URL, whether it is there or not; arguments as there."""
    parts = urlsplit(url)
    name = PurePosixPath(unquote(parts.path)).name
    if parts.scheme not in ("http", "https") or not parts.hostname or not name:
        raise InputError(f"{url}: not the http or https address of a file; {_ELSEWHERE}")
    if cache_dir is None:
        cache_dir = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vitprobe_jax" / "checkpoints"
    return cache_dir / f"{parts.hostname}-{hashlib.sha256(url.encode()).hexdigest()[:8]}" / name


def _fetch_whole(fetch: _Fetch, waits: tuple[float, ...]) -> None:
    """Fills the part, in as many attempts as bring it further and a few that do not."""
    furthest, failures, reached = fetch.have(), 0, False
    while True:
        try:
            _attempt(fetch)
            return
        except _DropError as error:
            reached = reached or not isinstance(error, _UnreachableError)
            have = fetch.have()
            furthest, failures = (have, 0) if have > furthest else (furthest, failures)
            # At once where there was no connection from the start: a closed network does not open within a minute.
            if not reached or failures == len(waits):
                raise InputError(_surrender(fetch, error)) from error
            wait = waits[failures]
            failures += 1
            fetch.log(f"{fetch.url}: {error}; trying again in {wait:g} s, from {_bytes(have)}")
        time.sleep(wait)


def _surrender(fetch: _Fetch, error: _DropError) -> str:
    kept = f"; {_bytes(fetch.have())} are kept for the next --download" if fetch.have() else ""
    if isinstance(error, _UnreachableError):
        host = urlsplit(fetch.url).hostname
        return (
            f"{fetch.url}: the network is closed, or {host} or where it redirects is down ({error}): {_ELSEWHERE}{kept}"
        )
    return f"{fetch.url}: the download fails again and again ({error}): try later, or {_ELSEWHERE}{kept}"


def _attempt(fetch: _Fetch) -> None:
    """One request: goes on from the part, or starts anew."""
    notes, have = _read_json(fetch.notes), fetch.have()
    if have and have == notes.get("size"):
        return  # It was whole, and the process ended before it was checked.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"vitprobe_jax/{__version__}"}
    resumes = have > 0 and None not in (notes.get("size"), notes.get("validator"))
    if resumes:
        headers |= {"Range": f"bytes={have}-", "If-Range": notes["validator"]}
    with _open(fetch, headers) as response:
        _refuse_other_content(fetch.url, response.headers)
        validator = _validator(response.headers)
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            start, size = have, notes.get("size")
            span = re.fullmatch(rf"bytes {have}-\d+/{size}", response.headers.get("Content-Range", ""))
            # If-Range should have seen to a changed file, but not every server heeds it.
            if not (resumes and span and validator in (None, notes["validator"])):
                fetch.part.unlink(missing_ok=True)
                raise _DropError("not the rest that was asked for")
            fetch.log(f"going on with {fetch.url} at {_bytes(have)} of {_bytes(size)}")
        else:
            start, size = 0, _announced_size(fetch.url, response.headers)
            anew = " anew: it cannot be resumed, or has changed" if have else ""
            fetch.log(f"downloading {fetch.url} ({'size unknown' if size is None else _bytes(size)}){anew}")
        with fetch.part.open("ab" if start else "wb") as file:
            if not start:
                # Only now that the part is empty: bytes of one file must not stand beside the validator of another.
                write_whole(fetch.notes, json.dumps({"size": size, "validator": validator}).encode())
            _copy(response, file, start, size)


def _open(fetch: _Fetch, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    request = urllib.request.Request(fetch.url, headers=dict(headers))
    try:
        # An opener of its own: the one behind `urlopen` keeps the proxies of the first call in the process.
        return urllib.request.build_opener().open(request, timeout=fetch.timeout)
    except urllib.error.HTTPError as error:
        error.close()
        answer = f"{error.code} {http.client.responses.get(error.code, '')}".strip()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            fetch.part.unlink(missing_ok=True)
        elif error.code not in _PASSING and error.code < 500:
            raise InputError(f"{fetch.url}: {answer}; it has moved or is not public: {_ELSEWHERE}") from error
        raise _DropError(answer) from error
    except (OSError, http.client.HTTPException) as error:
        raise _UnreachableError(_reason(error)) from error


def _refuse_other_content(url: str, headers: Message) -> None:
    if headers.get_content_type() == "text/html":
        raise InputError(f"{url}: a web page came instead of the file (a login?): {_ELSEWHERE}")
    if headers.get("Content-Encoding", "identity") != "identity":
        raise InputError(f"{url}: comes compressed, though asked not to, so that its size is unknown: {_ELSEWHERE}")


def _announced_size(url: str, headers: Message) -> int | None:
    """Bytes of the whole file; None where it comes in chunks, whose end is marked."""
    length = headers.get("Content-Length", "")
    if length.isdecimal() and int(length):
        return int(length)
    if "chunked" in headers.get("Transfer-Encoding", "").lower():
        return None
    raise InputError(f"{url}: comes empty, or without its size so that it may end anywhere: {_ELSEWHERE}")


def _validator(headers: Message) -> str | None:
    """What tells one state of the file from the next; weak ETags do not, byte for byte."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified")


def _copy(response: http.client.HTTPResponse, file: BinaryIO, have: int, size: int | None) -> None:
    """Adds what comes to the file, which holds `have` of `size` bytes."""
    name = Path(file.name).stem
    # disable=None: no bar where stderr is no terminal.
    with tqdm(total=size, initial=have, desc=name, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        while True:
            try:
                # read1 hands over what is there: nothing that arrived before a drop is lost.
                block = response.read1(_BLOCK)
            except (OSError, http.client.HTTPException) as error:
                raise _DropError(_reason(error)) from error
            if not block:
                break
            file.write(block)
            have += len(block)
            bar.update(len(block))
    if size is not None and have < size:
        raise _DropError(f"the connection ended before {_bytes(size)}")
    file.flush()
    os.fsync(file.fileno())


def _accept(fetch: _Fetch, file: Path, sha256: str) -> None:
    """A whole part becomes the file, if it is the right one."""
    try:
        checked = _check(fetch.part, file, fetch.url, sha256)
    except _WrongFileError as error:
        fetch.part.unlink()
        raise InputError(
            f"{fetch.url}: not the official file: {error}; it was removed: --download again, or {_ELSEWHERE}"
        ) from error
    os.replace(fetch.part, file)
    fetch.notes.unlink()
    fetch.log(f"downloaded {file}, {checked}")


def _check(path: Path, file: Path, url: str, sha256: str) -> str:
    """Compares what is in `path` with what was published and recorded for `file`; records it where nothing was.

    Returns:
        In words, what it was compared with.
    """
    record_path = file.with_name(file.name + ".json")
    record = _read_json(record_path)
    if record_path.exists() and not {"size", "sha256"} <= record.keys():
        raise InputError(f"{record_path}: damaged; delete it, and what is downloaded next is recorded")
    found = path.stat().st_size
    whence = f"recorded in {record_path}; delete that too if the official file was replaced"
    if record.get("size", found) != found:
        raise _WrongFileError(f"{found} bytes instead of {record['size']} ({whence})")
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if not digest.startswith(sha256.lower()):
        raise _WrongFileError(f"sha256 {digest} instead of {sha256} (published)")
    if record.get("sha256", digest) != digest:
        raise _WrongFileError(f"sha256 {digest} instead of {record['sha256']} ({whence})")
    if not record:
        # Known of what was just fetched; a file that somebody put there has none.
        validator = _read_json(path.with_name(path.name + ".json")).get("validator")
        text = json.dumps({"url": url, "size": found, "sha256": digest, "validator": validator}, indent=1)
        write_whole(record_path, text.encode())
    compared = "as published" if sha256 else "as recorded" if record else "recorded for later uses"
    return f"{_bytes(found)}, sha256 {digest} {compared}"


def _read_json(path: Path) -> dict[str, Any]:
    """Empty where there is no file, or a damaged one."""
    try:
        data = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _reason(error: Exception) -> str:
    """Of a failed connection, what the system says."""
    cause = getattr(error, "reason", error)  # URLError wraps it.
    return " ".join(str(getattr(cause, "strerror", None) or cause).split()) or type(cause).__name__


def _bytes(number: int) -> str:
    return tqdm.format_sizeof(number, "B")
