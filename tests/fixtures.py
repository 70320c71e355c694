"""Fixtures: databases, storages and running services, embedded or on real servers."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from deploy.browser import chromium
from service.app import create_app, open_context
from service.client import Client
from service.db import Database, migrate
from service.server import Server, config
from service.serving import running, serving
from service.settings import Settings
from service.storage import LocalStorage, S3Storage, Storage
from tests.servers import Bucket, installed

INVERSION: dict[str, Any] = {
    "kind": "inversion", "model": "cifar10-robust", "preset": "cifar", "steps": 20,
    "targets": {"source": "dataset", "dataset": "cifar10-sample", "indices": [0, 1, 2]},
}  # fmt: skip


def inversion(**changes: Any) -> dict[str, Any]:
    """A small valid job, changed."""
    return INVERSION | changes


@cache
def migrated() -> bytes:
    """An SQLite file that all migrations have run on; they take longer than most tests."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        migrate(f"sqlite:///{path}")
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
        connection.close()
        return path.read_bytes()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    path = tmp_path / "test.db"
    path.write_bytes(migrated())
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """An empty database of each kind in turn: the same tests hold for both."""
    database = Database(request.getfixturevalue(f"{request.param}_url"))
    yield database
    database.close()


def s3_settings(bucket: Bucket, **others: Any) -> dict[str, Any]:
    """The settings that name a bucket."""
    endpoint = bucket.endpoint
    return {
        "storage_url": f"s3://{bucket.name}", "s3_endpoint": endpoint.url, "s3_access_key": endpoint.access_key,
        "s3_secret_key": endpoint.secret_key, "s3_region": endpoint.region, **others,
    }  # fmt: skip


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty storage of each kind in turn."""
    if request.param == "local":
        return LocalStorage(tmp_path / "objects")
    bucket: Bucket = request.getfixturevalue("s3_bucket")
    return S3Storage(bucket.name, Settings(**s3_settings(bucket)))


@pytest.fixture(params=["sqlite-local", "postgres-s3"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Database, Storage]]:
    """An empty database and an empty storage, of the embedded kind and of servers in turn."""
    kind, _, store = request.param.partition("-")
    db = Database(request.getfixturevalue(f"{kind}_url"))
    if store == "local":
        yield db, LocalStorage(tmp_path / "objects")
    else:
        bucket = request.getfixturevalue("s3_bucket")
        yield db, S3Storage(bucket.name, Settings(**s3_settings(bucket)))
    db.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The embedded mode in a folder of its own, in a hurry."""
    return Settings(data_dir=tmp_path / "data", port=0, heartbeat_seconds=0.2, lease_seconds=60, reconcile_seconds=0.5)


@contextmanager
def workerless(settings: Settings) -> Iterator[TestClient]:
    """The API without a worker: what it accepts stays queued."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    (settings.data_dir / "robustreps.db").write_bytes(migrated())
    context = open_context(settings)
    with TestClient(create_app(settings, context), raise_server_exceptions=False) as client:
        yield client
    context.close()


@pytest.fixture
def api(settings: Settings) -> Iterator[TestClient]:
    """The API without a worker, over the shipped networks and data sets."""
    with workerless(settings) as client:
        yield client


@dataclass(frozen=True)
class LiveService:
    """A running embedded service."""

    url: str
    client: Client

    def submit(self, body: dict[str, Any]) -> dict[str, Any]:
        return self.client.submit(**body)

    def wait(self, job_id: str, timeout: float = 240) -> dict[str, Any]:
        return self.client.wait(job_id, timeout, interval=0.1)


@contextmanager
def live(settings: Settings) -> Iterator[LiveService]:
    """The embedded service on a port of its own: API, worker and reconciler."""
    with serving(settings) as server:
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        with Client(url, 240) as client:
            yield LiveService(url, client)
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def live_service(settings: Settings) -> Iterator[LiveService]:
    """A test's own."""
    with live(settings) as service:
        yield service


@pytest.fixture(scope="module")
def still_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveService, Database]]:
    """The API over HTTP without a worker, for a whole file: what it accepts stays queued. Its database, too."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("still"), port=0)
    (settings.data_dir / "robustreps.db").write_bytes(migrated())
    context = open_context(settings)
    server = Server(config(settings, create_app(settings, context)))
    with running(server) as url, Client(url, 240) as client:
        yield LiveService(url, client), context.db
    context.close()


@pytest.fixture(scope="module")  # no longer: while it is there, nothing else may run an event loop
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=60_000)  # milliseconds, where a test says nothing else: a busy machine fails no test
    with installed(), chromium() as browser:
        yield browser


def close(page: Page) -> None:
    page.unroute_all(behavior="ignoreErrors")  # an answer that a test alters on its way may reach the page no more
    page.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A browser page; an error on its console fails the test."""
    errors: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(message.text)

    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.on("console", note)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    close(page)
    assert errors == []
