"""What a worker loses that is killed, told to end, or stuck: no more than it said; and whose fault that was."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load
from torch import Tensor

from service.models import Shard
from tests.fixtures import inversion
from tests.stack import PATIENCE, Process, Stack, assert_ended_once, shard_of
from workers.main import DEVICE_LOST
from workers.recipes.standing import Standing, unpack

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
REGULARIZED: dict[str, Any] = {
    "kind": "feature_visualization", "model": "cifar10-robust", "preset": "cifar", "steps": 600,
    "coordinates": [1, 2], "regularization": {}, "frames": 12,
}  # fmt: skip


@pytest.fixture(autouse=True)
def often(stack: Stack) -> None:
    """Checkpoints are kept more than once in a test, and deterministic batches are small."""
    stack.environment |= {"ROBUSTREPS_CHECKPOINT_SECONDS": "0.5", "ROBUSTREPS_DETERMINISTIC_ROWS": "4"}


def standing(stack: Stack) -> Standing | None:
    """What a later claim of the only shard would go on from."""
    checkpoint = shard_of(stack).checkpoint
    return unpack(stack.storage.get(checkpoint["key"])) if checkpoint else None


def results(stack: Stack, job_id: str) -> list[dict[str, Tensor]]:
    items = list(stack.client.items(job_id))
    return [load(stack.client.artifact(item, "result.safetensors")) for item in items]


def is_same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> bool:
    """Whether all tensors are bitwise the same."""
    equal = [a[name].equal(b[name]) for a, b in zip(one, other, strict=True) for name in a]
    return all(equal) and [set(a) for a in one] == [set(b) for b in other]


SEARCHES = {
    "restarts": {"restarts": 2, "random_start": True, "eps": 5.0, "frames": 4},
    "adam in bf16": {"solver": "adam", "precision": "bf16", "schedule": "cosine"},
}


@pytest.mark.parametrize("body", SEARCHES.values(), ids=SEARCHES)
def test_a_search_whose_workers_are_killed_ends_bitwise_as_an_unbroken_one(stack: Stack, body: dict[str, Any]) -> None:
    asked = inversion(steps=300, deterministic=True) | body
    victim, unbroken = run_unbroken(stack, asked)
    broken, steps = stack.client.submit(**asked)["id"], [0]
    for _ in range(2):
        stack.wait_until(lambda: furthest(stack) > steps[-1])
        steps.append(furthest(stack))
        stack.end(victim, signal.SIGKILL)
        stack.run_out()
        victim = stack.start("worker")
    assert stack.succeeded(broken)
    assert is_same(results(stack, broken), unbroken)


def run_unbroken(stack: Stack, asked: dict[str, Any]) -> tuple[Process, list[dict[str, Tensor]]]:
    """A worker, and the results of a job that it makes, which is then forgotten."""
    worker = stack.start("worker")
    job_id = stack.client.submit(**asked)["id"]
    assert stack.succeeded(job_id)
    found = results(stack, job_id)
    with stack.db.transaction() as session:
        session.delete(session.get_one(Shard, f"{job_id}.0"))
    return worker, found


def furthest(stack: Stack) -> int:
    """Steps of the search that is furthest, as stored."""
    found = standing(stack)
    return max((saved.k for saved in found.begun.values()), default=0) if found else 0


def test_a_regularised_ascent_goes_on_too(stack: Stack) -> None:
    victim, unbroken = run_unbroken(stack, REGULARIZED)
    broken = stack.client.submit(**REGULARIZED)["id"]
    stack.wait_until(lambda: standing(stack))
    stack.end(victim, signal.SIGKILL)
    stack.run_out()
    second = stack.start("worker")
    stack.wait_until(lambda: (shard_of(stack).epoch, shard_of(stack).crashes) == (2, 0))
    assert stack.end(second) == 0
    found = standing(stack)
    assert found is not None
    assert 0 < int(found.ascent["steps"][0]) < 600
    stack.start("worker")
    assert stack.succeeded(broken)
    assert is_same(results(stack, broken), unbroken)


def test_a_worker_that_is_told_to_end_keeps_everything_and_is_gone_in_time(stack: Stack) -> None:
    stack.environment |= {"ROBUSTREPS_CHECKPOINT_SECONDS": "3600", "ROBUSTREPS_DRAIN_SECONDS": "3600"}
    worker = stack.start("worker")
    job_id = stack.client.submit(**inversion(steps=20_000))["id"]
    stack.wait_running(job_id)
    done = stack.client.job(job_id)["progress"]["steps_done"]
    assert stack.end(worker) == 0, "it does not wait until its time to let go is over"
    shard, found = shard_of(stack), standing(stack)
    assert (shard.state, shard.attempts, shard.crashes, shard.lease_expires_at) == ("queued", 0, 0, None)
    assert found is not None
    assert sum(saved.k for saved in found.begun.values()) >= done


def test_a_worker_that_cannot_let_go_in_time_is_gone_all_the_same(stack: Stack, tmp_path: Path) -> None:
    stack.environment |= {
        "ROBUSTREPS_DRAIN_SECONDS": "2", "FAULT": f"hang:{tmp_path / 'hung'}", "PYTHONPATH": faulty(),
    }  # fmt: skip
    worker = stack.start("worker")
    stack.client.submit(**inversion(steps=2000))
    stack.wait_until((tmp_path / "hung").exists)
    assert stack.end(worker) == 0
    shard = shard_of(stack)
    assert (shard.state, shard.attempts, shard.crashes) == ("queued", 0, 0)


def faulty() -> str:
    return str(Path(__file__).with_name("faulty"))


def test_a_worker_whose_device_hangs_loses_its_lease_and_ends(stack: Stack, tmp_path: Path) -> None:
    stack.environment |= {
        "ROBUSTREPS_LOADING_SECONDS": "30", "ROBUSTREPS_LEASE_SECONDS": "5", "FAULT": f"hang:{tmp_path / 'hung'}",
        "PYTHONPATH": faulty(),
    }  # fmt: skip
    worker = stack.start("worker")
    job_id = stack.client.submit(**inversion(steps=300))["id"]
    stack.wait_until((tmp_path / "hung").exists)
    stack.wait_until(lambda: shard_of(stack).state == "queued")
    assert worker.poll() is None, "the lease goes first"
    assert worker.wait(PATIENCE) == DEVICE_LOST
    stack.environment |= {"ROBUSTREPS_LOADING_SECONDS": "300", "ROBUSTREPS_LEASE_SECONDS": "100"}
    stack.start("worker")
    assert stack.succeeded(job_id)
    assert_ended_once(stack, job_id, 3)


def test_an_item_that_kills_its_workers_is_found_and_its_neighbours_are_not_blamed(stack: Stack) -> None:
    indices = [0, 1, 2, 3]
    labels = [item["target"]["label"] for item in targets(stack, indices)]
    deadly = next(i for i in indices if labels.count(labels[i]) == 1)
    stack.environment |= {"FAULT": f"die:{labels[deadly]}", "PYTHONPATH": faulty()}
    job_id = stack.client.submit(**inversion(targets=dataset(indices), start={"source": "gray"}))["id"]
    deaths = 0
    worker = stack.start("worker")
    while (job := stack.client.job(job_id))["state"] not in ("partially_succeeded", "failed", "succeeded"):
        if worker.poll() is not None:
            deaths += 1
            stack.run_out()
            worker = stack.start("worker")
        time.sleep(0.1)
    assert (job["state"], deaths) == ("partially_succeeded", 2), "the third time it died alone"
    ended = {item["index"]: item for item in stack.client.items(job_id)}
    assert {i: ended[i]["state"] for i in indices} == {i: "failed" if i == deadly else "succeeded" for i in indices}
    assert ended[deadly]["error"]["title"] == "Quarantined"
    del stack.environment["FAULT"]
    assert stack.end(worker) == 0
    stack.start("worker")
    stack.client.request("POST", f"/v1/jobs/{job_id}/retry")
    assert stack.succeeded(job_id)
    assert_ended_once(stack, job_id, len(indices))


def dataset(indices: list[int]) -> dict[str, Any]:
    return {"source": "dataset", "dataset": "cifar10-sample", "indices": indices}


def targets(stack: Stack, indices: list[int]) -> list[dict[str, Any]]:
    """What a job over these images would aim at."""
    job_id = stack.client.submit(**inversion(targets=dataset(indices)))["id"]
    stack.client.request("POST", f"/v1/jobs/{job_id}/cancel")
    return list(stack.client.items(job_id))
