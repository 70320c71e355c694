"""An HTTP proxy in front of an S3 server, which misbehaves as it is told to.

It forwards each request as it came, Host included, since that is part of what a client signs.
"""

import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

SLOW, PIECES, PIECE_SECONDS = 1.0, 8, 0.15
"""Seconds that a slow answer waits; in how many pieces a trickling one comes, and the seconds between two of them."""
RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close() sends RST
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class Mode(StrEnum):
    """A way to misbehave."""

    ERROR = "error"  # 500, nothing forwarded
    BUSY = "busy"  # 503, nothing forwarded
    FULL = "full"  # 507 to whatever writes, nothing forwarded
    REFUSED = "refused"  # the connection is reset before the body is read
    TORN_REQUEST = "torn request"  # half of the body reaches the server, then both connections are reset
    TORN_ANSWER = "torn answer"  # half of the answer reaches the client, then its connection is reset
    LOST_ANSWER = "lost answer"  # the server did what was asked, and the client does not hear of it
    SLOW = "slow"  # a second passes before anything is forwarded
    TRICKLE = "trickle"  # the answer comes in small pieces


class Answer(NamedTuple):
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


REFUSALS = {
    Mode.ERROR: (500, "InternalError"),
    Mode.BUSY: (503, "SlowDown"),
    Mode.FULL: (507, "InsufficientStorage"),
}


class Proxy:
    """Serves in threads of its own while it is entered. `hits` counts requests that were hit, by mode."""

    def __init__(self, upstream: str, seed: int = 0) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.hits: Counter[Mode] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()
        self._until: dict[Mode, tuple[float, float]] = {}
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Proxy":
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def misbehave(self, mode: Mode, seconds: float = 1e9, probability: float = 1.0) -> None:
        """Do this to each request of the next `seconds` with this probability; modes add up."""
        with self._lock:
            self._until[mode] = time.monotonic() + seconds, probability

    def behave(self) -> None:
        """Forward everything from now on."""
        with self._lock:
            self._until.clear()

    def draw(self, method: str) -> Mode | None:
        """What is to be done to the next request."""
        with self._lock:
            for mode, (until, probability) in self._until.items():
                concerned = mode is not Mode.FULL or method in ("PUT", "POST")
                if concerned and time.monotonic() < until and self._random.random() < probability:
                    self.hits[mode] += 1
                    return mode
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed in mid-request is no news here."""


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        draw = staticmethod(proxy.draw)
        upstream = proxy.upstream

    return Handler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    disable_nagle_algorithm = True
    upstream: str
    draw: Callable[[str], Mode | None]

    def handle_one_request(self) -> None:
        """The base class would look for a method by the request's; here all are forwarded."""
        self.raw_requestline = self.rfile.readline(65_537)
        if not self.raw_requestline:
            self.close_connection = True
        elif self.parse_request():
            self._forward(type(self).draw(self.command))

    def _forward(self, mode: Mode | None) -> None:
        if mode is Mode.REFUSED:
            return self._reset()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if mode is Mode.SLOW:
            time.sleep(SLOW)
        if mode in REFUSALS:
            return self._send(_refusal(*REFUSALS[mode]), None)
        try:
            with self._asked(body, torn=mode is Mode.TORN_REQUEST) as upstream:
                if mode is Mode.TORN_REQUEST:
                    return self._reset()
                found = upstream.getresponse()
                answer = Answer(found.status, found.reason, found.getheaders(), found.read())
        except (OSError, HTTPException):
            return self._reset()
        if mode is Mode.LOST_ANSWER:
            return self._reset()
        return self._send(answer, mode)

    @contextmanager
    def _asked(self, body: bytes, torn: bool) -> Iterator[HTTPConnection]:
        """The request, sent to the server whole or in part."""
        upstream = HTTPConnection(self.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":  # was answered here, and is not signed
                    upstream.putheader(name, value)
            upstream.endheaders()
            upstream.send(body[: len(body) // 2] if torn else body)
            if torn and upstream.sock is not None:
                upstream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            yield upstream
        finally:
            upstream.close()

    def _send(self, answer: Answer, mode: Mode | None) -> None:
        head = [f"HTTP/1.1 {answer.status} {answer.reason}"]
        head += [f"{name}: {value}" for name, value in answer.headers if name.lower() not in HOP_BY_HOP]
        length = dict(answer.headers).get("Content-Length", "0") if self.command == "HEAD" else str(len(answer.body))
        if answer.status != 204:
            head.append(f"Content-Length: {length}")
        whole = "\r\n".join([*head, "", ""]).encode("latin-1") + answer.body
        if mode is Mode.TORN_ANSWER:
            self.wfile.write(whole[: len(whole) - max(len(answer.body) // 2, 1)])
            return self._reset()
        size = -(-len(whole) // PIECES) if mode is Mode.TRICKLE else len(whole)
        for begin in range(0, len(whole), size):
            self.wfile.write(whole[begin : begin + size])
            if mode is Mode.TRICKLE:
                time.sleep(PIECE_SECONDS)
        return None

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        # The server would say good-bye first, and the client would then see an orderly end.
        self.connection.close()

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):
            self.close_connection = True


def _refusal(status: int, code: str) -> Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>chaos</Message></Error>'
    return Answer(status, code, [("Content-Type", "application/xml")], body.encode())
