"""Downloads from a host of our own that drops, truncates, corrupts, changes its file, or is not there at all."""

import hashlib
import io
import itertools
import json
import os
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from checkpoints_convert.download import cached_path, download
from tests.checkpoints_convert.official_host import CONTENT
from vitprobe_jax.errors import InputError

OTHER = np.random.default_rng(1).bytes(100_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def closed_url():
    """An address at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/official.pth"


@pytest.fixture
def fetch(host, tmp_path):
    """`download` of the host's file, with waits of no time."""

    def call(url=None, **options):
        options = {"cache_dir": tmp_path / "cache", "waits": (0.0, 0.0), "log": lambda line: None} | options
        return download(url or host.url, **options)

    call.file = cached_path(host.url, tmp_path / "cache")
    call.part = call.file.with_name("official.pth.part")
    call.record = call.file.with_name("official.pth.json")
    return call


def refusal(fetch, *args, **options) -> str:
    with pytest.raises(InputError) as caught:
        fetch(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def resumptions(host) -> list:
    return [(headers.get("Range"), headers.get("If-Range")) for _, headers in host.requests]


def test_a_file_is_fetched_once_and_recorded(host, fetch):
    lines = []
    file = fetch(log=lines.append)
    assert file == fetch.file
    assert file.name == "official.pth"
    assert file.read_bytes() == CONTENT
    assert json.loads(fetch.record.read_text()) == {
        **{"url": host.url, "size": 100_000, "sha256": SHA256, "validator": '"1"'}
    }
    assert {path.name for path in file.parent.iterdir()} == {"official.pth", "official.pth.json", "writer.lock"}
    assert fetch(log=lines.append) == file
    assert len(host.requests) == 1
    assert host.requests[0][1]["Accept-Encoding"] == "identity"
    assert lines == [
        f"downloading {host.url} (100kB)",
        f"downloaded {file}, 100kB, sha256 {SHA256} recorded for later uses",
        f"{file}: downloaded before, 100kB, sha256 {SHA256} as recorded",
    ]


def test_a_dropped_connection_is_taken_up_where_it_ended(host, fetch):
    host.stops = iter([30_000, 60_000, 90_000])
    lines = []
    assert fetch(log=lines.append).read_bytes() == CONTENT
    assert resumptions(host) == [(None, None), *((f"bytes={n}0000-", '"1"') for n in (3, 6, 9))]
    assert host.sent == len(CONTENT)
    assert lines[1] == (f"{host.url}: the connection ended before 100kB; trying again in 0 s, from 30.0kB")
    assert lines[2] == f"going on with {host.url} at 30.0kB of 100kB"


def test_a_reset_connection_is_taken_up(host, fetch):
    host.stops, host.resets = iter([30_000]), True
    assert fetch().read_bytes() == CONTENT
    assert len(host.requests) == 2


def test_silence_is_a_drop(host, fetch):
    host.stalls = iter([True])
    lines = []
    assert fetch(timeout=0.2, log=lines.append).read_bytes() == CONTENT
    assert lines[1] == f"{host.url}: timed out; trying again in 0 s, from 50.0kB"
    assert resumptions(host)[1] == ("bytes=50000-", '"1"')


def test_waits_grow_and_start_over_with_progress(host, fetch, monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    host.stops = iter([0, 0, 10_000, 10_000, 10_000])
    assert fetch(waits=(1.0, 2.0, 4.0)).read_bytes() == CONTENT
    assert slept == [1, 2, 1, 2, 4]


def test_a_truncated_file_fails_and_the_next_call_goes_on(host, fetch):
    host.stops = itertools.repeat(60_000)
    message = refusal(fetch)
    assert message.startswith(f"{host.url}: the download fails again and again (the connection ended before 100kB)")
    assert "60.0kB are kept for the next --download" in message
    assert len(host.requests) == 3  # One that brings something, and one after each wait.
    assert not fetch.file.exists()
    assert fetch.part.read_bytes() == CONTENT[:60_000]

    host.stops, host.sent = iter(()), 0
    assert fetch().read_bytes() == CONTENT
    assert resumptions(host)[-1] == ("bytes=60000-", '"1"')
    assert host.sent == 40_000


@pytest.mark.parametrize("ranges", ["if-range", "always"])
def test_a_file_that_changed_is_fetched_anew(ranges, host, fetch):
    host.stops = itertools.repeat(60_000)
    refusal(fetch)
    host.stops, host.ranges = iter(()), ranges
    host.content, host.headers = OTHER, {"ETag": '"2"'}
    assert fetch().read_bytes() == OTHER
    assert json.loads(fetch.record.read_text())["validator"] == '"2"'


def test_a_file_that_shrank_is_fetched_anew(host, fetch):
    host.stops = itertools.repeat(60_000)
    refusal(fetch)
    host.stops, host.ranges = iter(()), "always"
    host.content, host.headers = OTHER[:50_000], {"ETag": '"2"'}
    assert fetch().read_bytes() == OTHER[:50_000]


@pytest.mark.parametrize("ranges", ["never", "shifted"])
def test_servers_that_cannot_resume_send_all_of_it_again(ranges, host, fetch):
    host.stops, host.ranges = iter([30_000]), ranges
    assert fetch().read_bytes() == CONTENT


def test_a_server_that_cannot_resume_and_always_drops_is_given_up(host, fetch):
    host.stops, host.ranges = itertools.repeat(60_000), "never"
    assert "again and again" in refusal(fetch)
    assert len(host.requests) == 3


@pytest.mark.parametrize(
    ("headers", "guard"),
    [
        ({}, (None, None)),
        ({"ETag": 'W/"1"'}, (None, None)),
        (
            {"ETag": 'W/"1"', "Last-Modified": "Tue, 02 Jan 2024 03:04:05 GMT"},
            ("bytes=30000-", "Tue, 02 Jan 2024 03:04:05 GMT"),
        ),
    ],
)
def test_only_what_can_be_guarded_is_resumed(headers, guard, host, fetch):
    host.headers, host.stops = headers, iter([30_000])
    assert fetch().read_bytes() == CONTENT
    assert resumptions(host) == [(None, None), guard]


def test_a_part_that_was_whole_is_not_fetched_again(host, fetch):
    host.stops = itertools.repeat(60_000)
    refusal(fetch)
    fetch.part.write_bytes(CONTENT)
    host.requests.clear()
    assert fetch().read_bytes() == CONTENT
    assert not host.requests


def test_chunks_need_no_length(host, fetch):
    host.chunked, host.stops = True, iter([30_000])
    assert fetch().read_bytes() == CONTENT
    assert len(host.requests) == 2


def test_redirects_are_followed_also_when_resuming(host, fetch):
    host.redirects = iter([f"{host.address}/moved", None, "/moved"])
    host.stops = iter([30_000])
    assert fetch().read_bytes() == CONTENT
    assert [path for path, _ in host.requests] == ["/models/official.pth", "/moved"] * 2
    assert host.sent == len(CONTENT)


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ({"statuses": [404]}, "404 Not Found"),
        ({"statuses": [403]}, "403 Forbidden"),
        ({"headers": {"Content-Type": "text/html; charset=utf-8"}}, "a web page"),
        ({"headers": {"Content-Encoding": "gzip"}}, "compressed"),
        ({"headers": {"Content-Length": None}}, "without its size"),
        ({"content": b""}, "empty"),
    ],
)
def test_answers_that_are_final(does, said, host, fetch):
    for name, value in does.items():
        setattr(host, name, iter(value) if isinstance(value, list) else value)
    message = refusal(fetch)
    assert message.startswith(f"{host.url}: ")
    assert said in message
    assert "give it by --input=FILE" in message
    assert len(host.requests) == 1
    assert not fetch.file.exists()


def test_a_redirect_in_circles(host, fetch):
    host.redirects = itertools.repeat("/models/official.pth")
    assert "302 Found" in refusal(fetch)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_fails_for_a_moment(status, host, fetch):
    host.statuses = iter([status, status])
    assert fetch().read_bytes() == CONTENT
    host.statuses = itertools.repeat(status)
    fetch.file.unlink()
    host.requests.clear()
    assert f"again and again ({status} " in refusal(fetch)
    assert len(host.requests) == 3


def test_a_closed_network_is_said_at_once(closed_url, fetch):
    message = refusal(fetch, closed_url, waits=(60.0,))
    assert message == (
        f"{closed_url}: the network is closed, or 127.0.0.1 or where it redirects is down (Connection refused): "
        "fetch it elsewhere and give it by --input=FILE"
    )


def test_an_unknown_host(fetch, monkeypatch):
    def unknown(*_args, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    message = refusal(fetch, "https://models.example/official.pth")
    assert (
        "the network is closed, or models.example or where it redirects is down (Name or service not known)" in message
    )


def test_a_network_that_closes_on_the_way(host, closed_url, fetch):
    host.stops = iter([30_000])
    host.redirects = itertools.chain([None], itertools.repeat(closed_url))
    message = refusal(fetch)
    assert message.startswith(f"{host.url}: the network is closed, or 127.0.0.1 or where it redirects is down")
    assert "30.0kB are kept" in message
    assert len(host.requests) == 1 + 2


def test_an_untrusted_or_broken_tls_connection(host, fetch):
    url = host.url.replace("http:", "https:")
    assert re.search(r"is down \(.*SSL", refusal(fetch, url))


def test_the_published_sha256(host, fetch):
    host.content = CONTENT[:500] + bytes([CONTENT[500] ^ 1]) + CONTENT[501:]
    message = refusal(fetch, sha256=SHA256[:8])
    assert message.startswith(f"{host.url}: not the official file: sha256 ")
    assert f"instead of {SHA256[:8]} (published)" in message
    assert [path.name for path in fetch.file.parent.glob("*.pth*")] == ["official.pth.part.json"]

    host.content, lines = CONTENT, []
    assert fetch(sha256=SHA256[:8].upper(), log=lines.append).read_bytes() == CONTENT
    assert lines[-1].endswith("as published")
    assert fetch(sha256=SHA256) == fetch.file
    assert str(fetch.file) in refusal(fetch, sha256="0" * 64)


@pytest.mark.parametrize("damage", ["one byte", "truncated"])
def test_a_cached_file_that_is_damaged_later(damage, host, fetch):
    fetch()
    if damage == "truncated":
        os.truncate(fetch.file, 99_999)
    else:
        fetch.file.write_bytes(bytes([CONTENT[0] ^ 1]) + CONTENT[1:])
    message = refusal(fetch)
    assert message.startswith(f"{fetch.file}: no longer the file of {host.url}: ")
    assert ("99999 bytes instead of 100000" if damage == "truncated" else f"instead of {SHA256}") in message
    assert message.endswith("delete it and --download again")
    fetch.file.unlink()
    assert fetch().read_bytes() == CONTENT


def test_the_record_of_the_first_use_holds_for_later_downloads(host, fetch):
    fetch().unlink()
    host.content = OTHER
    message = refusal(fetch)
    assert f"(recorded in {fetch.record}; delete that too if the official file was replaced)" in message
    assert not fetch.file.exists()
    assert not fetch.part.exists()
    fetch.record.unlink()
    assert fetch().read_bytes() == OTHER


def test_a_damaged_record(fetch):
    fetch()
    fetch.record.write_text("{")
    assert f"{fetch.record}: damaged; delete it" in refusal(fetch)


def test_a_file_put_into_the_cache_by_hand_is_recorded(host, fetch):
    fetch.file.parent.mkdir(parents=True)
    fetch.file.write_bytes(CONTENT)
    assert fetch() == fetch.file
    assert json.loads(fetch.record.read_text())["sha256"] == SHA256
    assert not host.requests


def test_two_at_once_fetch_it_once(host, fetch):
    host.stalls = iter([True])
    with ThreadPoolExecutor(2) as pool:
        files = list(pool.map(lambda _: fetch(timeout=0.2), range(2)))
    assert files == [fetch.file] * 2
    assert fetch.file.read_bytes() == CONTENT
    assert host.sent == len(CONTENT)


def test_a_full_disk(host, fetch):
    fetch.part.parent.mkdir(parents=True)
    fetch.part.symlink_to("/dev/full")
    message = refusal(fetch)
    assert message.startswith(f"--cache_dir: {fetch.part.parent} fails for {host.url} (No space left on device)")
    assert len(host.requests) == 1


def test_a_cache_that_cannot_be_written(host, fetch, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert refusal(fetch).startswith(f"--cache_dir: {fetch.file.parent} fails for {host.url} (Not a directory)")


def test_urls_with_one_file_name_do_not_meet(host, fetch):
    host.content = CONTENT
    small = fetch(f"{host.address}/small/teacher.pth")
    host.content = OTHER
    large = fetch(f"{host.address}/large/teacher.pth?download=1")
    assert small.name == large.name == "teacher.pth"
    assert small.read_bytes() == CONTENT
    assert large.read_bytes() == OTHER


@pytest.mark.parametrize("url", ["file:///etc/official.pth", "https://models.example/", "official.pth"])
def test_what_is_no_address_of_a_file(url, fetch):
    assert refusal(fetch, url).startswith(f"{url}: not the http or https address of a file")


def test_where_files_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "vitprobe_jax/checkpoints"
    assert cached_path("https://models.example/a/official.pth").is_relative_to(folder)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "home/.cache/vitprobe_jax/checkpoints"
    assert cached_path("https://models.example/a/official.pth").is_relative_to(folder)


def test_a_proxy_of_the_environment_is_used(host, fetch, monkeypatch):
    monkeypatch.setenv("http_proxy", host.address)
    assert fetch("http://models.example/official.pth").read_bytes() == CONTENT
    assert host.requests[0][0] == "http://models.example/official.pth"


def test_a_bar_on_a_terminal_and_silence_in_a_log(fetch, monkeypatch):
    log, terminal = io.StringIO(), io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", log)
    file: Path = fetch()
    file.unlink()
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch()
    assert log.getvalue() == ""
    assert "official.pth" in terminal.getvalue()
