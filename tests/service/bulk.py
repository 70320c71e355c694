"""The API over each database, with planners that plan when they are asked to."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from service import leases
from service.api.context import Context
from service.app import create_app, open_context
from service.bulk.planner import BulkPlanner
from service.models import Shard
from service.settings import Settings
from service.states import ShardState
from service.storage import Stored
from tests.fixtures import inversion
from tests.service.test_api import post

ALL = {"source": "dataset", "dataset": "cifar10-sample"}
SOME = ALL | {"slice": {"stop": 20}}
MANIFEST = {"source": "manifest", "key": "imports/list.jsonl"}


@dataclass
class Bulk:
    """The API and a planner that plans when asked to, over SQLite and Postgres in turn."""

    api: TestClient
    context: Context

    def planner(self) -> BulkPlanner:
        c = self.context
        return BulkPlanner(c.db, c.storage, c.broker, c.catalog, c.settings, c.planning)

    def accepted(self, **changes: Any) -> str:
        response = post(self.api, inversion(**changes))
        assert response.status_code == 202, response.text
        assert response.json()["state"] == "validating"
        return str(response.json()["id"])

    def planned(self, **changes: Any) -> dict[str, Any]:
        job_id = self.accepted(**changes)
        self.planner().plan()
        return self.job(job_id)

    def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.api.get(f"/v1/jobs/{job_id}").json()
        return job

    def items(self, job_id: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.api.get(f"/v1/jobs/{job_id}/items?limit=500").json()["items"]
        return items

    def errors(self, job_id: str, query: str = "") -> Any:
        return self.api.get(f"/v1/jobs/{job_id}/errors{query}").json()

    def listed(self, *lines: Any, key: str = "imports/list.jsonl") -> None:
        """Put a manifest into the storage."""
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        self.context.storage.put(key, text.encode(), "application/jsonl")

    def count(self, table: type[Any], job_id: str) -> int:
        with self.context.db.reading() as session:
            return session.scalar(select(func.count()).select_from(table).where(table.job_id == job_id)) or 0


@pytest.fixture(params=["sqlite", "postgres"])
def bulk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bulk]:
    url = request.getfixturevalue(f"{request.param}_url")
    broker = "memory://" if request.param == "sqlite" else request.getfixturevalue("redis_server")
    settings = Settings(data_dir=tmp_path / "data", database_url=url, broker_url=broker, max_items=8, shard_items=4)
    context = open_context(settings)
    with TestClient(create_app(settings, context), raise_server_exceptions=False) as api:
        yield Bulk(api, context)
    context.close()


def finish(bulk: Bulk, job_id: str, only: Callable[[int], bool] = lambda _: True) -> None:
    """End every item of a job, the last one too: succeeded where `only` says so, else failed."""
    db = bulk.context.db
    while True:
        with db.reading() as session:
            queued = (Shard.job_id == job_id) & (Shard.state == ShardState.QUEUED)
            shard_id = session.scalar(select(Shard.id).where(queued).limit(1))
        if shard_id is None:
            return
        with db.transaction() as session:
            work = leases.claim(session, shard_id, "worker", 60)
        assert work is not None
        with db.transaction() as session:
            for item in work.items:
                stored = Stored(f"jobs/{job_id}/items/{item.index}/1/a", 3, "0" * 64)
                if only(item.index):
                    leases.save_item(session, work.lease, item.index, {"m": item.index}, {}, {"a": (stored, "x")})
                else:
                    leases.fail_item(session, work.lease, item.index, "Title", "detail")
            leases.finish(session, work.lease)
