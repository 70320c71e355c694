"""The server itself: what a connection may send, what bodies may take together, and several processes."""

import gc
import os
import signal
import socket
import subprocess
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from deploy.servers import usable_port
from service import middleware, protocol
from service.app import create_app, open_context
from service.client import Client
from service.middleware import TOGETHER
from service.server import Server, config
from service.serving import running
from service.settings import Settings
from tests.fixtures import inversion, migrated, workerless
from tests.stack import ROBUSTREPS, ready

LIMIT = 1000


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A server whose bodies may have 1,000 bytes."""
    (tmp_path / "robustreps.db").write_bytes(migrated())
    settings = Settings(data_dir=tmp_path, port=0, max_body_bytes=LIMIT)
    context = open_context(settings)
    with running(Server(config(settings, create_app(settings, context)))) as url:
        yield int(url.rpartition(":")[2])
    context.close()


def connect(port: int, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=120)
    connection.sendall(sent)
    return connection


def answer(connection: socket.socket) -> bytes:
    """All that is sent until the other side closes."""
    with connection:
        received = b""
        try:
            while data := connection.recv(65_536):
                received += data
        except ConnectionResetError:
            pass
        return received


def head(length: int, *headers: str) -> bytes:
    lines = ("POST /v1/images HTTP/1.1", "Host: x", f"Content-Length: {length}", "Connection: close", *headers)
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@pytest.mark.parametrize("line", [b"X-Long: " + b"x" * 400_000, b"X-Many: y\r\n" * 40_000, b"GET /" + b"z" * 400_000])
def test_headers_without_an_end_are_refused(port: int, line: bytes) -> None:
    connection = connect(port, b"" if line.startswith(b"GET") else b"GET /healthz HTTP/1.1\r\n")
    with pytest.raises(OSError, match=r".*"):
        send_for_ever(connection, line)
    connection.close()


def send_for_ever(connection: socket.socket, line: bytes) -> None:
    for _ in range(100):
        connection.sendall(line)
        time.sleep(0.01)


def test_long_headers_are_taken_and_longer_ones_are_not(port: int) -> None:
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as http:
        assert http.get("/healthz", headers={"X-Long": "x" * 60_000}).status_code == 200
        for _ in range(3):  # counted for each request, not for a connection
            assert http.get("/healthz", headers={"X-Long": "x" * 30_000}).status_code == 200


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half"])
def test_a_connection_that_asks_nothing_is_closed(port: int, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "SLOWEST_HEAD", 0.3)
    start = time.monotonic()
    assert answer(connect(port, sent)) == b""
    assert time.monotonic() - start < 60


def test_headers_that_come_in_parts_are_one_request(port: int) -> None:
    connection = connect(port, b"GET /healthz HT")
    for part in (b"TP/1.1\r\nHo", b"st: x\r\nConnection: close\r\n", b"\r\n"):
        time.sleep(0.02)
        connection.sendall(part)
    assert answer(connection).startswith(b"HTTP/1.1 200")


def test_bodies_have_a_bound_together_and_room_comes_back(port: int) -> None:
    held = [connect(port, head(LIMIT) + b"x" * (LIMIT - 1)) for _ in range(TOGETHER)]
    end = time.monotonic() + 60
    while not (refused := answer(connect(port, head(100) + b"x" * 100))).startswith(b"HTTP/1.1 503"):
        assert time.monotonic() < end
    assert b"application/problem+json" in refused
    assert b"retry-after: 5" in refused.lower()
    for connection in held:
        connection.sendall(b"x")
        assert answer(connection).startswith(b"HTTP/1.1 422")
    assert answer(connect(port, head(100) + b"x" * 100)).startswith(b"HTTP/1.1 422")


def test_a_body_that_stops_coming_is_given_up(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "SILENCE", 0.3)
    late = answer(connect(port, head(LIMIT) + b"x"))
    assert late.startswith(b"HTTP/1.1 408")
    assert b"application/problem+json" in late


def test_a_service_that_was_closed_is_forgotten(settings: Settings) -> None:
    with workerless(settings) as client:
        assert client.get("/docs").status_code == 200
        app = weakref.ref(client.app)
    del client
    wait(lambda: gc.collect() >= 0 and app() is None)  # its threads may have a moment left


def children(pid: int) -> set[int]:
    """The processes that serve."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(each) for each in listed if "spawn_main" in Path(f"/proc/{each}/cmdline").read_text()}


@pytest.mark.e2e
@pytest.mark.slow
def test_several_processes_serve_one_port_and_none_outlives_the_first(postgres_url: str, redis_url: str) -> None:
    port = usable_port()
    values = {"database_url": postgres_url, "broker_url": redis_url, "port": port, "api_processes": 2}
    environment = os.environ | {f"ROBUSTREPS_{name.upper()}": str(value) for name, value in values.items()}
    with ExitStack() as stack:
        client = stack.enter_context(Client(f"http://127.0.0.1:{port}"))
        process = stack.enter_context(subprocess.Popen([ROBUSTREPS, "serve"], env=environment))
        stack.callback(process.kill)
        wait(lambda: ready(client) and len(children(process.pid)) == 2)
        ids = {client.submit(**inversion(), idempotency_key="once")["id"] for _ in range(20)}
        assert len(ids) == 1
        first = children(process.pid)
        os.kill(min(first), signal.SIGKILL)
        wait(lambda: len(children(process.pid) - first) == 1)
        wait(lambda: ready(client))
        left = children(process.pid)
        process.kill()
        wait(lambda: not any(Path(f"/proc/{each}").exists() for each in left))


@pytest.mark.e2e
@pytest.mark.slow
def test_several_processes_end_in_order(postgres_url: str, redis_url: str) -> None:
    port = usable_port()
    values = {"database_url": postgres_url, "broker_url": redis_url, "port": port, "api_processes": 2}
    environment = os.environ | {f"ROBUSTREPS_{name.upper()}": str(value) for name, value in values.items()}
    with subprocess.Popen([ROBUSTREPS, "serve"], env=environment) as process, Client(f"http://127.0.0.1:{port}") as c:
        wait(lambda: ready(c))
        left = children(process.pid)
        process.terminate()
        assert process.wait(120) in (0, -signal.SIGTERM)
        assert not any(Path(f"/proc/{each}").exists() for each in left)


def wait(condition: Callable[[], object], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
