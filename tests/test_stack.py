"""The service on real servers, each part its own process: a job ends once, whatever is killed or wiped on its way."""

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
import torch
from redis import Redis
from safetensors.torch import load
from sqlalchemy import func, select

from deploy.servers import usable_port
from service.client import Client
from service.db import Database
from service.models import Artifact, Item, Job, Shard
from service.settings import Settings
from service.states import JobState
from service.storage import S3Storage
from tests.fixtures import inversion, s3_settings
from tests.servers import Bucket

pytestmark = pytest.mark.e2e
ROBUSTREPS = Path(sys.executable).with_name("robustreps")


@dataclass
class Stack:
    """Processes of the service over one database, broker and bucket."""

    environment: dict[str, str]
    client: Client
    db: Database
    storage: S3Storage
    redis_url: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([ROBUSTREPS, command], env=self.environment)
        self.processes.append(process)
        return process

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def wait_until(self, condition: Callable[[], Any], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.05)

    def wait_running(self, job_id: str) -> None:
        """Until a worker has reported steps."""
        self.wait_until(lambda: self.client.job(job_id)["progress"]["steps_done"] > 0)


@pytest.fixture
def stack(postgres_url: str, redis_url: str, s3_bucket: Bucket) -> Iterator[Stack]:
    """A running API; workers are each test's own."""
    port = usable_port()
    values = s3_settings(s3_bucket) | {
        "database_url": postgres_url, "broker_url": redis_url, "port": port, "heartbeat_seconds": 0.3,
        "lease_seconds": 3, "reconcile_seconds": 1, "log_format": "json",
    }  # fmt: skip
    environment = os.environ | {f"ROBUSTREPS_{name.upper()}": str(value) for name, value in values.items()}
    with ExitStack() as exits:
        client = exits.enter_context(Client(f"http://127.0.0.1:{port}"))
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
        stored = stack.storage.put(row.key, stack.storage.get(row.key), row.media_type)
        assert (stored.size, stored.sha256) == (row.size, row.sha256)


def test_a_job_ends_with_images_in_s3_and_rows_in_postgres(stack: Stack) -> None:
    stack.start("worker")
    job = stack.client.submit(**inversion(steps=30))
    assert stack.client.wait(job["id"], timeout=90)["state"] == "succeeded"
    assert_ended_once(stack, job["id"], 3)
    item = next(stack.client.items(job["id"]))
    assert stack.client.artifact(item, "result.png").startswith(b"\x89PNG")


def test_a_worker_killed_in_mid_job_is_replaced_and_the_job_ends_once(stack: Stack) -> None:
    victim = stack.start("worker")
    job_id = stack.client.submit(**inversion(steps=600))["id"]
    stack.wait_running(job_id)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    stack.start("worker")
    assert stack.client.wait(job_id, timeout=120)["state"] == "succeeded"
    assert_ended_once(stack, job_id, 3)
    with stack.db.reading() as session:
        shard = session.scalars(select(Shard)).one()
    assert (shard.epoch, shard.crashes) == (2, 1)


def test_a_worker_that_was_frozen_past_its_lease_writes_nothing(stack: Stack) -> None:
    frozen = stack.start("worker")
    job_id = stack.client.submit(**inversion(steps=400))["id"]
    stack.wait_running(job_id)
    frozen.send_signal(signal.SIGSTOP)
    stack.start("worker")
    assert stack.client.wait(job_id, timeout=120)["state"] == "succeeded"
    frozen.send_signal(signal.SIGCONT)
    time.sleep(3)
    assert frozen.poll() is None
    assert_ended_once(stack, job_id, 3)
    with stack.db.reading() as session:
        keys = session.scalars(select(Artifact.key)).all()
    assert {key.split("/")[4] for key in keys} == {"2"}


TRAINING: dict[str, Any] = {
    "kind": "training", "architecture": "cifar-resnet-slim", "dataset": "cifar10-sample", "preset": "cifar-small",
    "eps": 0.0, "epochs": 8, "batch_size": 100, "lr": 0.1, "checkpoint_seconds": 1,
}  # fmt: skip


def shard_of(stack: Stack) -> Shard:
    with stack.db.reading() as session:
        return session.scalars(select(Shard)).one()


def trained(stack: Stack, job_id: str) -> str:
    """The digest of the weights that a training job ended with."""
    job = stack.client.wait(job_id, timeout=200)
    item = next(stack.client.items(job_id))
    assert job["state"] == "succeeded", item["error"]
    digest: str = stack.client.request("GET", f"/v1/models/{item['metrics']['model']}").json()["digest"]
    return digest


def test_a_training_run_survives_its_worker_and_ends_with_the_weights_of_an_unbroken_one(stack: Stack) -> None:
    victim = stack.start("worker")
    broken = stack.client.submit(**TRAINING)["id"]
    stack.wait_until(lambda: next(stack.client.items(broken))["checkpoint"])
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    second = stack.start("worker")
    stack.wait_until(lambda: shard_of(stack).epoch == 2 and shard_of(stack).progress.get("image_steps"))
    second.terminate()
    assert second.wait(30) == 0
    shard = shard_of(stack)
    assert (shard.epoch, shard.attempts, shard.crashes) == (2, 0, 0), "a checkpoint is progress since the crash"
    stack.start("worker")
    unbroken = stack.client.submit(**TRAINING)["id"]
    assert trained(stack, broken) == trained(stack, unbroken)
    kept = [key for key in stack.storage.keys(f"jobs/{broken}/") if "checkpoint" in key]
    assert len(kept) == 1, "an older checkpoint goes when its successor is in place"


def test_two_nodes_train_the_network_of_one(stack: Stack) -> None:
    """The worker starts its node's processes; the other node's are started by hand, without a folder or a job."""
    port = usable_port()
    where = ["--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    alone = stack.start("worker")
    one = stack.client.submit(**TRAINING | {"epochs": 1})["id"]
    stack.client.wait(one, timeout=100)
    alone.terminate()
    alone.wait()
    stack.environment["ROBUSTREPS_TORCHRUN_OPTIONS"] = " ".join([*where, "--node-rank=0"])
    stack.start("worker")
    two = stack.client.submit(**TRAINING | {"epochs": 1})["id"]
    other = [sys.executable, "-m", "torch.distributed.run", *where, "--node-rank=1", "-m", "workers.training"]
    with subprocess.Popen(other, env=stack.environment) as node:
        job = stack.client.wait(two, timeout=150)
        assert node.wait(60) == 0
    assert job["state"] == "succeeded", next(stack.client.items(two))["error"]
    found = [next(stack.client.items(job_id)) for job_id in (one, two)]
    assert [item["provenance"]["processes"] for item in found] == [1, 2]
    weights = [load(stack.client.artifact(item, "model.safetensors")) for item in found]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=2e-3, atol=2e-4)


def test_redis_wiped_in_mid_job_loses_nothing(stack: Stack) -> None:
    worker = stack.start("worker")
    running = stack.client.submit(**inversion(steps=600))["id"]
    stack.wait_running(running)
    waiting = [stack.client.submit(**inversion(steps=20))["id"] for _ in range(3)]
    with Redis.from_url(stack.redis_url) as redis:
        redis.flushall()
    for job_id in (running, *waiting):
        assert stack.client.wait(job_id, timeout=120)["state"] == "succeeded"
        assert_ended_once(stack, job_id, 3)
    assert worker.poll() is None


def test_a_terminated_worker_lets_go_without_a_crash_and_exits(stack: Stack) -> None:
    worker = stack.start("worker")
    job_id = stack.client.submit(**inversion(steps=20_000))["id"]
    stack.wait_running(job_id)
    begun = time.monotonic()
    worker.terminate()
    assert worker.wait(15) == 0
    assert time.monotonic() - begun < 10
    with stack.db.reading() as session:
        shard = session.scalars(select(Shard)).one()
    assert (shard.state, shard.attempts, shard.crashes) == ("queued", 0, 0)


def test_the_api_accepts_jobs_while_redis_is_down(stack: Stack) -> None:
    stack.processes[0].terminate()
    stack.processes[0].wait()
    working = stack.environment["ROBUSTREPS_BROKER_URL"]
    stack.environment["ROBUSTREPS_BROKER_URL"] = f"redis://127.0.0.1:{usable_port()}/0"
    api = stack.start("serve")
    stack.wait_until(lambda: ready(stack.client))
    begun = time.monotonic()
    job_id = stack.client.submit(**inversion())["id"]
    assert time.monotonic() - begun < 5
    api.terminate()
    api.wait()
    stack.environment["ROBUSTREPS_BROKER_URL"] = working
    stack.start("serve")
    stack.start("worker")
    stack.wait_until(lambda: ready(stack.client))
    assert stack.client.wait(job_id, timeout=90)["state"] == "succeeded"
