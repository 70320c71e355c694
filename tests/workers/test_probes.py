"""A worker's own port on real servers: what it counts, and a readiness that tells the truth."""

import os
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from deploy.servers import redis, usable_port
from service import readiness
from service.client import Client
from service.db import Database, downgrade, migrate
from service.settings import Settings
from tests.deploy.test_health import health
from tests.fixtures import inversion, live
from tests.service.scraped import scraped, value
from tests.service.test_server import children, wait
from tests.stack import PATIENCE, ROBUSTREPS, Stack, ready, shard_of
from workers import probes
from workers.probes import Consuming

pytestmark = pytest.mark.e2e


def asked(port: int, path: str = "/readyz") -> tuple[int, dict[str, str]]:
    try:
        answer = httpx2.get(f"http://127.0.0.1:{port}{path}", timeout=120)
    except httpx2.TransportError:
        return 0, {}
    return answer.status_code, dict(answer.json())


def probed(stack: Stack, **settings: str) -> int:
    """The port of a worker that takes work."""
    port = usable_port()
    stack.environment |= {f"ROBUSTREPS_{n.upper()}": v for n, v in {"metrics_port": str(port), **settings}.items()}
    stack.start("worker")
    stack.wait_until(lambda: asked(port)[0] == 200)
    return port


def test_a_worker_is_ready_from_when_it_takes_work_and_counts_what_it_computes(stack: Stack) -> None:
    token = "a token that is long enough"
    port = probed(stack, metrics_token=token)
    assert asked(port)[1] == dict.fromkeys(("worker", "device", "database", "schema", "storage", "broker"), "ok")
    assert asked(port, "/healthz") == (200, {"status": "ok"})
    assert health(stack, "--worker", metrics_port=str(port))[0] == 0
    job = stack.client.submit(**inversion())
    assert stack.succeeded(job["id"])
    refused = httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=120)
    assert (refused.status_code, refused.headers["WWW-Authenticate"], "robustreps_" in refused.text) == (
        401,
        "Bearer",
        False,
    )
    found = scraped(f"http://127.0.0.1:{port}", token)
    assert 60 <= value(found, "robustreps_image_steps_total") < 70, "the last step of each is measured"
    assert value(found, "robustreps_row_steps_total") >= 60
    assert value(found, "robustreps_wait_seconds_count", priority="normal") == 1
    for phase in ("claim", "load", "compute", "save", "upload"):
        assert value(found, "robustreps_phase_seconds_count", phase=phase) >= 1, phase
    assert value(found, "robustreps_storage_operation_seconds_count", operation="write") >= 1
    assert value(found, "robustreps_shards_limit") == 4
    assert value(found, "robustreps_database_connections", state="open") >= 1
    api = scraped(str(stack.client.url))
    assert value(api, "robustreps_workers") == 1
    assert value(api, "robustreps_messages_sent_total") >= 1
    stack.wait_until(lambda: value(scraped(str(stack.client.url)), "robustreps_reconciler_passes_total") >= 1)


def test_a_worker_without_its_broker_is_not_ready(stack: Stack, servers_dir: Path) -> None:
    with redis(servers_dir / "own") as url:
        port = probed(stack, broker_url=url)
    stack.wait_until(lambda: asked(port)[1].get("worker") == "consumes nothing")
    status, found = asked(port)
    assert (status, found["broker"], found["database"]) == (503, "unreachable", "ok")
    assert asked(port, "/healthz")[0] == 200
    with redis(servers_dir / "own", int(url.rpartition(":")[2].partition("/")[0])):
        stack.wait_until(lambda: asked(port)[0] == 200)


def test_a_worker_that_drains_says_so_until_it_has_let_go_and_its_port_goes_with_it(stack: Stack) -> None:
    port = probed(stack, drain_seconds=str(PATIENCE))
    worker = stack.processes[1]
    job = stack.client.submit(**inversion(steps=50_000))["id"]
    stack.wait_running(job)
    with stack.db.transaction() as session:  # which holds what the worker must write to let go
        session.execute(text("SELECT id FROM shards FOR UPDATE"))
        worker.send_signal(signal.SIGTERM)
        stack.wait_until(lambda: asked(port)[1].get("worker") == "draining")
        assert asked(port)[0] == 503
        assert asked(port, "/healthz")[0] == 200
        assert health(stack, "--worker", metrics_port=str(port))[0] == 1
        assert worker.poll() is None
    assert worker.wait(PATIENCE) == 0
    assert asked(port)[0] == 0
    assert shard_of(stack).lease_expires_at is None


def test_a_worker_goes_on_without_a_port_that_another_has(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, capture_logs() as logs:
        taken = {"host": "127.0.0.1", "metrics_port": other.getsockname()[1]}
        with live(settings.model_copy(update=taken)) as service:
            job = service.submit(inversion())
            assert service.wait(job["id"])["state"] == "succeeded"
    assert [line["port"] for line in logs if "cannot be had" in line["event"]] == [taken["metrics_port"]]


def test_what_goes_wrong_at_the_port_is_logged_and_who_hangs_up_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    gone = threading.Event()

    def answered(path: str, _: str) -> tuple[int, str, bytes]:
        if path == "/broken":
            raise ValueError(path)
        gone.wait(PATIENCE)
        return 200, "text/plain", bytes(50_000_000)

    threads, server = threading.active_count(), probes._Server(("127.0.0.1", 0), answered)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    with capture_logs() as logs:
        with socket.create_connection(("127.0.0.1", server.server_address[1])) as scraper:
            scraper.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
        gone.set()
        with pytest.raises(httpx2.RemoteProtocolError):
            httpx2.get(f"http://127.0.0.1:{server.server_address[1]}/broken", timeout=PATIENCE)
        server.shutdown()
        wait(lambda: threading.active_count() <= threads)
    server.server_close()
    assert [(line["event"], line["exc_info"]) for line in logs] == [("a probe was not answered", True)]
    assert capsys.readouterr().err == ""


def test_a_worker_that_has_no_consumer_consumes_nothing() -> None:
    class Connection:
        connected = True

    class Consumer:
        connection: Any = None

    consuming, consumer = Consuming(), Consumer()
    assert not consuming()
    consuming.ready(consumer)
    assert not consuming(), "Celery is connecting"
    consumer.connection = Connection()
    assert consuming()
    consumer.connection.connected = False
    assert not consuming()


def test_a_schema_that_is_behind_is_told_and_a_newer_one_is_no_fault(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    migrate(url)
    db = Database(url)
    assert readiness.schema(db) == "ok"
    with db.transaction() as session:
        newest = session.scalar(text("SELECT version_num FROM alembic_version"))
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert readiness.ready({"schema": readiness.schema(db)})
    with db.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :newest"), {"newest": newest})
    downgrade(url, "0005")
    assert readiness.schema(db).startswith("behind")
    assert not readiness.ready({"schema": readiness.schema(db)})
    db.close()


@pytest.mark.slow
def test_processes_that_share_a_port_count_together(stack: Stack, tmp_path: Path) -> None:
    port = usable_port()
    environment = stack.environment | {"ROBUSTREPS_PORT": str(port), "ROBUSTREPS_API_PROCESSES": "2"}
    environment["TMPDIR"] = str(tmp_path)
    process = subprocess.Popen([ROBUSTREPS, "serve"], env=environment)
    stack.processes.append(process)
    with Client(f"http://127.0.0.1:{port}", PATIENCE) as client:
        wait(lambda: ready(client) and len(children(process.pid)) == 2)
        for _ in range(40):  # each by a connection of its own: the processes take turns
            httpx2.get(f"{client.url}/v1/models", timeout=PATIENCE)
        for _ in range(10):
            found = scraped(str(client.url))
            assert value(found, "robustreps_http_request_seconds_count", route="/v1/models") == 40
            assert value(found, "robustreps_database_up") == 1
        wait(lambda: value(scraped(str(client.url)), "robustreps_reconciler_passes_total", outcome="ok") > 0)
        limit = value(scraped(str(client.url)), "robustreps_database_connections_limit")
        first, files = children(process.pid), {path.name for path in tmp_path.glob("*/*.db")}
        os.kill(min(first), signal.SIGKILL)
        wait(lambda: len(now := children(process.pid)) == 2 and now != first and ready(client))
        # What it counted stays; what it held does not.
        wait(lambda: value(scraped(str(client.url)), "robustreps_database_connections_limit") == limit)
        assert value(scraped(str(client.url)), "robustreps_http_request_seconds_count", route="/v1/models") == 40
        assert {path.name for path in tmp_path.glob("*/*.db")} == files, "a process that ends again and again adds none"
