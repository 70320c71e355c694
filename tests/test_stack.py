"""The service on real servers, each part its own process: a job ends once, whatever is killed or wiped on its way."""

import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from redis import Redis
from safetensors.torch import load
from sqlalchemy import select

from deploy.servers import usable_port
from service.models import Artifact, Shard
from tests.fixtures import inversion
from tests.stack import PATIENCE, Stack, assert_ended_once, ready, shard_of

pytestmark = pytest.mark.e2e


def test_a_job_ends_with_images_in_s3_and_rows_in_postgres(stack: Stack) -> None:
    stack.start("worker")
    job = stack.client.submit(**inversion(steps=30))
    assert stack.succeeded(job["id"])
    assert_ended_once(stack, job["id"], 3)
    item = next(stack.client.items(job["id"]))
    assert stack.client.artifact(item, "result.png").startswith(b"\x89PNG")


def test_a_worker_killed_in_mid_job_is_replaced_and_the_job_ends_once(stack: Stack) -> None:
    victim = stack.start("worker")
    job_id = stack.client.submit(**inversion(steps=600))["id"]
    stack.wait_running(job_id)
    stack.end(victim, signal.SIGKILL)
    stack.run_out()
    stack.start("worker")
    assert stack.succeeded(job_id)
    assert_ended_once(stack, job_id, 3)
    with stack.db.reading() as session:
        shard = session.scalars(select(Shard)).one()
    assert (shard.epoch, shard.crashes) == (2, 0), "an item that is saved is progress since the crash"


def test_a_worker_that_was_frozen_past_its_lease_writes_nothing(stack: Stack) -> None:
    frozen = stack.start("worker")
    job_id = stack.client.submit(**inversion(steps=400))["id"]
    stack.wait_running(job_id)
    frozen.send_signal(signal.SIGSTOP)
    stack.run_out()
    stack.start("worker")
    assert stack.succeeded(job_id)
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


def trained(stack: Stack, job_id: str) -> str:
    """The digest of the weights that a training job ended with."""
    job = stack.client.wait(job_id, PATIENCE)
    item = next(stack.client.items(job_id))
    assert job["state"] == "succeeded", item["error"]
    digest: str = stack.client.request("GET", f"/v1/models/{item['metrics']['model']}").json()["digest"]
    return digest


def test_a_training_run_survives_its_worker_and_ends_with_the_weights_of_an_unbroken_one(stack: Stack) -> None:
    victim = stack.start("worker")
    broken = stack.client.submit(**TRAINING)["id"]
    stack.wait_until(lambda: next(stack.client.items(broken))["checkpoint"])
    stack.end(victim, signal.SIGKILL)
    stack.run_out()
    second = stack.start("worker")
    # A checkpoint is progress since the crash, which is then forgotten.
    stack.wait_until(lambda: (shard_of(stack).epoch, shard_of(stack).crashes) == (2, 0))
    assert stack.end(second) == 0
    assert (shard_of(stack).epoch, shard_of(stack).attempts, shard_of(stack).crashes) == (2, 0, 0)
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
    assert stack.succeeded(one)
    stack.end(alone)
    stack.environment["ROBUSTREPS_TORCHRUN_OPTIONS"] = " ".join([*where, "--node-rank=0"])
    stack.start("worker")
    two = stack.client.submit(**TRAINING | {"epochs": 1})["id"]
    other = [sys.executable, "-m", "torch.distributed.run", *where, "--node-rank=1", "-m", "workers.training"]
    with subprocess.Popen(other, env=stack.environment) as node:
        job = stack.client.wait(two, PATIENCE)
        assert node.wait(PATIENCE) == 0
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
        assert stack.succeeded(job_id)
        assert_ended_once(stack, job_id, 3)
    assert worker.poll() is None


def test_a_terminated_worker_lets_go_without_a_crash_and_exits(stack: Stack) -> None:
    stack.environment["ROBUSTREPS_DRAIN_SECONDS"] = "3600"  # it is gone because it let go, not because its time is over
    worker = stack.start("worker")
    job_id = stack.client.submit(**inversion(steps=20_000))["id"]
    stack.wait_running(job_id)
    assert stack.end(worker) == 0
    with stack.db.reading() as session:
        shard = session.scalars(select(Shard)).one()
    assert (shard.state, shard.attempts, shard.crashes) == ("queued", 0, 0)


def test_the_api_accepts_jobs_while_redis_is_down(stack: Stack) -> None:
    stack.end(stack.processes[0])
    working = stack.environment["ROBUSTREPS_BROKER_URL"]
    stack.environment["ROBUSTREPS_BROKER_URL"] = f"redis://127.0.0.1:{usable_port()}/0"
    api = stack.start("serve")
    stack.wait_until(lambda: ready(stack.client))
    job_id = stack.client.submit(**inversion())["id"]
    stack.end(api)
    stack.environment["ROBUSTREPS_BROKER_URL"] = working
    stack.start("serve")
    stack.start("worker")
    stack.wait_until(lambda: ready(stack.client))
    assert stack.succeeded(job_id)
