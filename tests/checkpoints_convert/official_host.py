"""A host of official files that drops, truncates, corrupts, changes its file, or sends none."""

import contextlib
import dataclasses
import re
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

CONTENT = np.random.default_rng(0).bytes(100_000)


def _nothing():
    return iter(())


@dataclasses.dataclass
class Host:
    """What the server does, and what it has seen; iterators give one value a request, and then nothing special.

    Attributes:
        content: of the file.
        headers: sent beside those of the body's length and range; None in place of a value takes one away.
        stops: positions in the file at which the connection ends.
        resets: whether it ends so that the client's system reports an error.
        statuses: answers instead of the file.
        redirects: addresses to which requests are sent on.
        ranges: whether Range is heeded: "if-range" as it should be, "always" whatever If-Range says, "shifted" with
            other bytes than those asked for, "never".
        chunked: whether the length is left out, and chunks are sent.
        stalls: whether to send half of the file, and then keep silent.
        requests: of each, the path and the headers.
        sent: bytes of content.
    """

    content: bytes = CONTENT
    headers: dict[str, str | None] = dataclasses.field(default_factory=lambda: {"ETag": '"1"'})
    stops: Iterator[int | None] = dataclasses.field(default_factory=_nothing)
    resets: bool = False
    statuses: Iterator[int | None] = dataclasses.field(default_factory=_nothing)
    redirects: Iterator[str | None] = dataclasses.field(default_factory=_nothing)
    ranges: str = "if-range"
    chunked: bool = False
    stalls: Iterator[bool] = dataclasses.field(default_factory=_nothing)
    silence: threading.Event = dataclasses.field(default_factory=threading.Event)
    requests: list = dataclasses.field(default_factory=list)
    sent: int = 0
    address: str = ""

    @property
    def url(self) -> str:
        return f"{self.address}/models/official.pth"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        host = self.server.host
        host.requests.append((self.path, dict(self.headers)))
        self.close_connection = True
        status, redirect = next(host.statuses, None), next(host.redirects, None)
        if status or redirect:
            self._end(status or 302, **({"Location": redirect} if redirect else {}))
            return
        start = self._start()
        if start and start >= len(host.content):
            self._end(416)
            return
        headers = {"Content-Length": str(len(host.content) - start), "Content-Type": "application/octet-stream"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(host.content) - 1}/{len(host.content)}"
        if host.chunked:
            headers |= {"Content-Length": None, "Transfer-Encoding": "chunked"}
        self.send_response(206 if start else 200)
        for key, value in (headers | host.headers).items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        self._send_body(start)

    def _end(self, status, **headers):
        self.send_response(status)
        for key, value in ({"Content-Length": "0"} | headers).items():
            self.send_header(key, value)
        self.end_headers()

    def _start(self) -> int:
        host = self.server.host
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        fresh = self.headers.get("If-Range") in (host.headers.get("ETag"), host.headers.get("Last-Modified"))
        heeded = {"if-range": fresh, "always": True, "shifted": True, "never": False}[host.ranges]
        return int(asked[1]) - 100 * (host.ranges == "shifted") if asked and heeded else 0

    def _send_body(self, start):
        host = self.server.host
        stop, stalls = next(host.stops, None), next(host.stalls, False)
        body = host.content[start : len(host.content) // 2 if stalls else stop]
        host.sent += len(body)
        if host.chunked:
            body = b"%x\r\n%s\r\n" % (len(body), body) + (b"0\r\n\r\n" if stop is None else b"")
        self.wfile.write(body)
        if stalls:
            host.silence.wait(5)
        if stop is not None and host.resets:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # shutdown_request would end the connection in good order first.
            self.rfile.close()
            self.wfile.close()
            self.connection.close()


@contextlib.contextmanager
def serving() -> Iterator[Host]:
    """A host at work on a port of this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.host = Host(address=f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.host
        server.host.silence.set()
        server.shutdown()
        thread.join()
