"""A fixture: the API on a port of its own, over each pair of database and storage, without a worker."""

import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError

import httpx2
import pytest
import uvicorn

from service.api.context import Context
from service.app import create_app, open_context
from service.db import Database
from service.settings import Settings
from service.storage import Storage
from tests.fixtures import migrated, s3_settings


class Served(NamedTuple):
    url: str
    context: Context
    http: httpx2.Client

    @property
    def db(self) -> Database:
        return self.context.db

    @property
    def storage(self) -> Storage:
        return self.context.storage

    @property
    def on_s3(self) -> bool:
        return self.context.settings.storage.startswith("s3:")


@pytest.fixture(params=["sqlite-local", "postgres-s3"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    values: dict[str, Any] = {"data_dir": tmp_path / "data", "max_upload_bytes": 50_000_000, "max_body_bytes": 500_000}
    if request.param == "postgres-s3":
        values |= s3_settings(request.getfixturevalue("s3_bucket")) | {
            "database_url": request.getfixturevalue("postgres_url"),
            "broker_url": request.getfixturevalue("redis_server"),
        }  # fmt: skip
    else:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "robustreps.db").write_bytes(migrated())
    settings = Settings(**values)
    context = open_context(settings)
    server = uvicorn.Server(uvicorn.Config(create_app(settings, context), port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    with httpx2.Client(base_url=url, timeout=120) as http:
        yield Served(url, context, http)
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()
    context.broker.close()
    context.db.close()


def send(method: str, url: str, data: bytes | None = None, headers: Any = None) -> tuple[int, bytes]:
    """A request by the standard library alone; the answer's status and body."""
    request = urllib.request.Request(url, data=data, method=method, headers=dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()
