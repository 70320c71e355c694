"""The service as processes of its own on real servers: what tests kill and start again."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select, update

from deploy.servers import usable_port
from service.client import Client
from service.db import Database, now
from service.models import Artifact, Item, Job, Shard
from service.settings import Settings
from service.states import JobState
from service.storage import S3Storage, read_file
from tests.fixtures import s3_settings
from tests.servers import Bucket

ROBUSTREPS = Path(sys.executable).with_name("robustreps")
Process = subprocess.Popen[bytes]
PATIENCE = 240.0
"""Seconds for what takes a few on an idle machine: a busy one fails no test."""


@dataclass
class Stack:
    """Processes of the service over one database, broker and bucket."""

    environment: dict[str, str]
    client: Client
    db: Database
    storage: S3Storage
    redis_url: str
    processes: list[Process] = field(default_factory=list)

    def start(self, command: str) -> Process:
        process = subprocess.Popen([ROBUSTREPS, command], env=self.environment)
        self.processes.append(process)
        return process

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def wait_until(self, condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.05)

    def end(self, worker: Process, by: int = signal.SIGTERM) -> int:
        """A worker's status, once it has ended by this signal."""
        worker.send_signal(by)
        return worker.wait(PATIENCE)

    def succeeded(self, job_id: str) -> bool:
        """Once the job is over."""
        return bool(self.client.wait(job_id, PATIENCE)["state"] == JobState.SUCCEEDED)

    def run_out(self) -> None:
        """All leases run out now: in tests they last longer than a busy machine may hold up who has them."""
        with self.db.transaction() as session:
            session.execute(update(Shard).where(Shard.lease_expires_at.is_not(None)).values(lease_expires_at=now() - 1))

    def wait_running(self, job_id: str) -> None:
        """Until a worker has reported steps."""
        self.wait_until(lambda: self.client.job(job_id)["progress"]["steps_done"] > 0)


@pytest.fixture
def stack(postgres_url: str, redis_url: str, s3_bucket: Bucket) -> Iterator[Stack]:
    """A running API; workers are each test's own."""
    port = usable_port()
    values = s3_settings(s3_bucket) | {
        "database_url": postgres_url, "broker_url": redis_url, "port": port, "heartbeat_seconds": 0.3,
        "lease_seconds": 100, "reconcile_seconds": 1, "log_format": "json",
    }  # fmt: skip
    environment = os.environ | {f"ROBUSTREPS_{name.upper()}": str(value) for name, value in values.items()}
    with ExitStack() as exits:
        client = exits.enter_context(Client(f"http://127.0.0.1:{port}", PATIENCE))
        db = Database(postgres_url)
        exits.callback(db.close)
        stack = Stack(environment, client, db, S3Storage(s3_bucket.name, Settings(**s3_settings(s3_bucket))), redis_url)
        exits.callback(stack.stop)
        stack.start("serve")
        stack.wait_until(lambda: ready(client))
        yield stack


def ready(client: Client) -> bool:
    try:
        return client.request("GET", "/readyz").status_code == 200
    except httpx2.TransportError:
        return False


def assert_ended_once(stack: Stack, job_id: str, items: int) -> None:
    """Every item succeeded once, and every row points at an object with its digest."""
    with stack.db.reading() as session:
        job = session.get_one(Job, job_id)
        assert (job.state, job.finished_at is not None) == (JobState.SUCCEEDED, True)
        states = session.scalars(select(Item.state).where(Item.job_id == job_id)).all()
        assert list(states) == ["succeeded"] * items
        rows = session.scalars(select(Artifact).where(Artifact.job_id == job_id)).all()
        held = (Shard.job_id == job_id) & Shard.lease_expires_at.is_not(None)
        leased = session.scalar(select(func.count()).select_from(Shard).where(held))
    assert len(rows) == items * 5
    assert leased == 0
    for row in rows:
        data = read_file(stack.storage, row.key, row.offset, row.size)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (row.size, row.sha256)


def shard_of(stack: Stack) -> Shard:
    """The only one."""
    with stack.db.reading() as session:
        return session.scalars(select(Shard)).one()
