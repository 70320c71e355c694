"""What a job costs its servers: transactions, rows and log bytes of Postgres, requests and bytes at S3, Redis commands.

    python -m bench.capacity [--items 256] [--steps 30] [--polls 200] [--out FILE.json]

One inversion job, submitted, computed by a worker of this process and polled, each phase counted by the servers
themselves: pg_stat_database, pg_stat_wal, pg_stat_user_tables; Redis' INFO; S3's requests by the client's own events.
docs/capacity.md multiplies the counts. Counts, not times: other programs on the machine do not change them, but for
those that go by the clock (a heartbeat each 5 s a shard, a worker's announcement each 10 s, a checkpoint each 30 s a
shard), of which a slow machine has more.
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from redis import Redis
from sqlalchemy import create_engine, func, select, text

from bench.api import used
from bench.worker import DATASET, IMAGES, MODEL, tell
from deploy import servers, up
from service import jobs, leases
from service.api.context import Context
from service.app import create_app, open_context
from service.db import migrate
from service.models import Artifact
from service.settings import Settings
from service.storage import S3Storage
from workers.engine.bench import machine
from workers.main import EmbeddedWorker
from workers.runtime import pick_device

FLUSH = 12.0
"""Seconds after which an idle connection of Postgres has said what it did."""
DATABASE = """
SELECT xact_commit + xact_rollback AS transactions, tup_inserted AS inserted, tup_updated AS updated,
       (SELECT wal_bytes::bigint FROM pg_stat_wal) AS wal_bytes
FROM pg_stat_database WHERE datname = current_database()
"""
BEATS = 500
OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
TABLES = "SELECT relname, n_tup_ins, n_tup_upd FROM pg_stat_user_tables"


class Counts:
    """What the servers have counted so far."""

    def __init__(self, database: str, redis: str, storage: S3Storage, pids: Mapping[str, int]) -> None:
        self.engine, self.redis, self.pids = create_engine(database), Redis.from_url(redis), pids
        self.s3: Counter[str] = Counter()
        storage.client.meta.events.register("before-send.s3", self._sent)
        storage.client.meta.events.register("after-call.s3", self._answered)

    def _sent(self, request: Any, **_: Any) -> None:
        body = request.body
        self.s3[request.method] += 1
        self.s3["bytes_up"] += int(request.headers.get("Content-Length") or (len(body) if body else 0))

    def _answered(self, http_response: Any, **_: Any) -> None:
        self.s3["bytes_down"] += int(http_response.headers.get("Content-Length") or 0)

    def now(self) -> Counter[str]:
        time.sleep(FLUSH)
        found: Counter[str] = Counter({f"s3 {name}": n for name, n in self.s3.items()})
        with self.engine.connect() as connection:
            found.update(
                {f"postgres {n}": int(v) for n, v in connection.execute(text(DATABASE)).mappings().one().items()}
            )
            for table, inserted, updated in connection.execute(text(TABLES)):
                found[f"insert {table}"], found[f"update {table}"] = inserted, updated
        self.engine.dispose()
        found.update({f"{name} processor ms": round(1000 * used(pid)) for name, pid in self.pids.items()})
        found.update({"redis commands": int(self.redis.info("stats")["total_commands_processed"])})
        return found


@contextmanager
def phase(counts: Counts, report: dict[str, Any], name: str) -> Iterator[None]:
    """What is counted in between is this phase's."""
    before, began = counts.now(), time.monotonic()
    yield
    seconds = time.monotonic() - began
    found = counts.now() - before
    report[name] = {"seconds": round(seconds, 1)} | {n: v for n, v in sorted(found.items()) if v}
    print(name, report[name], flush=True)


def run(settings: Settings, items: int, steps: int, polls: int, pids: Mapping[str, int]) -> dict[str, Any]:
    """The counts of each phase, and the bytes of an item's files."""
    migrate(settings.database)
    report: dict[str, Any] = {"items": items, "steps": steps, "polls": polls, "shard_items": settings.shard_items}
    context = open_context(settings)
    assert isinstance(context.storage, S3Storage)
    counts = Counts(settings.database, settings.broker_url, context.storage, pids)
    targets = {"source": "dataset", "dataset": DATASET, "indices": [i % IMAGES for i in range(items)]}
    body = {"kind": "inversion", "model": MODEL, "preset": "cifar", "steps": steps, "targets": targets}
    with TestClient(create_app(settings, open_context(settings))) as client:
        with phase(counts, report, "idle"):
            time.sleep(10)
        with phase(counts, report, "submit"):
            job = client.post("/v1/jobs", json=body).json()["id"]
        with phase(counts, report, "heartbeats"):
            _heartbeats(context, client.post("/v1/jobs", json=body).json()["id"])
        worker = EmbeddedWorker(context)
        with phase(counts, report, "compute"):
            worker.start()
            report["connections"] = _until_over(counts, job)
        with phase(counts, report, "poll"):
            for _ in range(polls):
                client.get(f"/v1/jobs/{job}").raise_for_status()
        worker.close()
    report["files"] = _files(context.db)
    context.close()
    return report


def _heartbeats(context: Context, job: str) -> None:
    """So many heartbeats of one shard, whose job is then out of the way."""
    with context.db.transaction() as session:
        work = leases.claim(session, f"{job}.0", "bench", 600)
    assert work
    for step in range(BEATS):
        with context.db.transaction() as session:
            leases.heartbeat(session, work.lease, 600, {"steps_done": step})
    with context.db.transaction() as session:
        leases.finish(session, work.lease)
        jobs.cancel(session, job)


def _until_over(counts: Counts, job: str) -> int:
    """The most connections to the database that others had. Asks seldom: this is counted, too."""
    most, state = 0, "queued"
    while state in ("queued", "running"):
        time.sleep(5)
        with counts.engine.connect() as connection:
            state = connection.execute(text("SELECT state FROM jobs WHERE id = :id"), {"id": job}).scalar_one()
            most = max(most, connection.execute(text(OTHERS)).scalar_one())
    assert state == "succeeded"
    return most


def _files(db: Any) -> Mapping[str, int]:
    """Mean bytes of an item's files by name."""
    with db.reading() as session:
        rows = session.execute(select(Artifact.name, func.avg(Artifact.size)).group_by(Artifact.name))
        return {name: round(size) for name, size in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, value in {"items": 256, "steps": 30, "polls": 200}.items():
        parser.add_argument("--" + flag, type=int, default=value)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        data = Path(folder)
        data.chmod(0o711)
        database = stack.enter_context(servers.postgres(data / "postgres"))
        broker = stack.enter_context(servers.redis(data / "redis"))
        endpoint = stack.enter_context(servers.s3(data / "s3"))
        up.make_bucket(endpoint)
        os.environ.update(
            up.environment(database, broker, endpoint) | {"ROBUSTREPS_DATA_DIR": folder, "ROBUSTREPS_AUTH": "off"}
        )
        pids = {name: int((data / name / "pid").read_text()) for name in ("postgres", "redis", "s3")}
        report = run(Settings(), a.items, a.steps, a.polls, pids)
    tell({"machine": machine(pick_device("auto"))} | report, a.out)


if __name__ == "__main__":
    servers.exit_on_signals()
    main()
