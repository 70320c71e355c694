"""A fixture: the API on a port, without a worker, over each database in turn, with jobs in several states."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
import uvicorn
from sqlalchemy import text

from service.api.context import Context
from service.app import create_app, open_context
from service.client import Client
from service.models import Base
from service.settings import Settings
from tests.fixtures import inversion, migrated
from tests.servers import new_database
from tests.service.test_images import encode, noise

TABLES = " UNION ALL ".join(f"SELECT '{name}', count(*) FROM {name}" for name in Base.metadata.tables)


class Doors(NamedTuple):
    """Where to knock, and what is behind: a job that is over, one that waits, a cancelled one, more by parameter."""

    url: str
    http: httpx2.Client
    context: Context
    ended: str
    queued: str
    cancelled: str
    known: dict[str, str]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def counts(self) -> dict[str, int]:
        """Rows by table, and how many objects are stored."""
        with self.context.db.reading() as session:
            rows = {str(row[0]): int(row[1]) for row in session.execute(text(TABLES))}
        return rows | {"objects": sum(1 for _ in self.context.storage.keys(""))}


@contextmanager
def _serving(context: Context) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(create_app(context.settings, context), port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


def _computed(client: Client, context: Context) -> str:
    from workers.main import EmbeddedWorker  # here: it loads torch, which most tests of the API do without

    worker = EmbeddedWorker(context)
    worker.start()
    job = client.wait(client.submit(**inversion(steps=2))["id"], 240, interval=0.1)
    worker.close()
    assert job["state"] == "succeeded"
    return str(job["id"])


def _stored(http: httpx2.Client) -> dict[str, str]:
    """Something of every other kind."""
    pending = {"kind": "manifest", "size": 1, "sha256": "0" * 64}
    found = {
        "image_id": http.post("/v1/images", content=encode(noise())),
        "upload_id": http.post("/v1/checkpoints", content=b"a checkpoint"),
        "manifest_id": http.post("/v1/manifests", content=b'{"dataset": "cifar10-sample", "index": 0}'),
        "pending": http.post("/v1/uploads", json=pending),
        "webhook_id": http.post("/v1/webhooks", json={"url": "http://127.0.0.1:1/"}),
    }
    return {name: str(answer.raise_for_status().json()["id"]) for name, answer in found.items()}


def database_of(request: pytest.FixtureRequest, folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Settings of a migrated database of its own, of the kind that the fixture's parameter says."""
    if request.param == "sqlite":
        (folder / "robustreps.db").write_bytes(migrated())
        return {}
    server, template = (request.getfixturevalue(f"postgres_{name}") for name in ("server", "template"))
    url = stack.enter_context(new_database(server, template))
    return {"database_url": url, "broker_url": request.getfixturevalue("redis_server")}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def doors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    folder: Path = tmp_path_factory.mktemp("doors")
    values: dict[str, Any] = {"data_dir": folder, "max_body_bytes": 1_000_000, "max_upload_bytes": 2_000_000,
                              "webhook_private": True, "webhook_http": True}  # fmt: skip
    with ExitStack() as stack:
        values |= database_of(request, folder, stack)
        context = open_context(Settings(**values))
        stack.callback(context.db.close)
        stack.callback(context.broker.close)
        url = stack.enter_context(_serving(context))
        http = stack.enter_context(httpx2.Client(base_url=url, timeout=120))
        client = stack.enter_context(Client(url))
        ended, (queued, cancelled) = _computed(client, context), (client.submit(**inversion())["id"] for _ in "12")
        http.post(f"/v1/jobs/{cancelled}/cancel").raise_for_status()
        yield Doors(url, http, context, ended, str(queued), str(cancelled), _stored(http))
