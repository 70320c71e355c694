"""An operator at work, by the commands of the runbook, on real processes."""

import json
import os
import signal
import subprocess

import pytest

from tests.fixtures import inversion
from tests.stack import PATIENCE, ROBUSTREPS, Stack, assert_ended_once, shard_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def admin(stack: Stack, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROBUSTREPS, "admin", *words], env=stack.environment, capture_output=True, text=True, timeout=PATIENCE
    )


def test_a_worker_that_is_drained_by_name_lets_go_and_ends(stack: Stack) -> None:
    stack.environment |= {"ROBUSTREPS_DRAIN_SECONDS": "3600"}
    worker = stack.start("worker")
    job_id = stack.client.submit(**inversion(steps=20_000))["id"]
    stack.wait_running(job_id)
    (name,) = [each["id"] for each in stack.client.workers()]
    done = admin(stack, "workers", "drain", name, "--wait", str(PATIENCE))
    assert (done.returncode, done.stdout) == (0, f"{name} has ended\n"), done.stderr
    assert worker.wait(PATIENCE) == 0
    shard = shard_of(stack)
    assert (shard.state, shard.attempts, shard.crashes) == ("queued", 0, 0)
    assert shard.checkpoint is not None


def test_a_job_that_a_frozen_worker_sits_on_is_taken_from_it(stack: Stack) -> None:
    frozen = stack.start("worker")
    job_id = stack.client.submit(**inversion(steps=400))["id"]
    stack.wait_running(job_id)
    frozen.send_signal(signal.SIGSTOP)
    assert admin(stack, "requeue", job_id).returncode == 3, "it might still compute"
    done = admin(stack, "requeue", job_id, "--take")
    assert (done.returncode, done.stdout) == (0, f"{job_id}: 0 failed items, 0 waiting shards, 1 taken\n"), done.stderr
    stack.start("worker")
    assert stack.succeeded(job_id)
    frozen.send_signal(signal.SIGCONT)
    assert_ended_once(stack, job_id, 3)
    requeued = [line["detail"] for line in stack.client.logs(job_id) if line["event"] == "requeued"]
    assert [detail["by"].partition("@")[2] for detail in requeued] == [os.uname().nodename]


def test_one_screen_is_right_of_real_servers(stack: Stack) -> None:
    stack.client.submit(**inversion())
    done = admin(stack, "status", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["servers"].values()) == {"ok"}
    assert (found["shards"]["queued"], found["workers"]) == (1, [])
    stack.wait_until(lambda: json.loads(admin(stack, "status", "--json").stdout)["messages"]["shards-normal"] == 1)
