"""Why a job waits, what is ahead of it, and when it begins; workers, and what a dry run expects."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, update

from service import estimates, fleet, jobs, leases, queries, waiting
from service.bulk_models import WorkerProcess
from service.db import Database, now
from service.events import Feed
from service.models import Job, Shard
from service.responses import Waiting
from service.states import JobState
from tests.fixtures import LiveService, inversion
from tests.service import inserting
from tests.service.bodies import study
from tests.service.test_api import assert_problem, post
from tests.service.test_jobs import PARAMETERS, claimed, do, finish, plan, save, submit
from tests.service.test_lifecycle import LATER, until
from tests.service.test_priorities import INFO
from tests.service.test_recipe_parts import begin, submit_recipe
from tests.stack import Stack
from workers.runtime import CPU_ROWS

STEPS = 10
"""Image-steps of an item of `submit`'s jobs."""


def waits(db: Database, job_id: str) -> Waiting | None:
    with db.reading() as session:
        return queries.job(session, job_id).waiting


def reason(db: Database, job_id: str) -> str | None:
    return found.reason if (found := waits(db, job_id)) else None


def alive(db: Database, threads: int = 2, worker: str = "h:1") -> None:
    do(db, fleet.announce, worker, INFO | {"threads": threads})


def reported(db: Database, shard_id: str, rate: float, image_steps: int = 0) -> None:
    progress = {"rate": rate, "image_steps": image_steps, "curve": []}
    with db.transaction() as session:
        session.execute(update(Shard).where(Shard.id == shard_id).values(progress=progress))


def test_what_is_ahead_is_more_urgent_or_as_urgent_and_older(database: Database) -> None:
    alive(database)
    older, own, younger = (submit(database, items=4, shard_items=1)[0] for _ in range(3))
    high = do(database, inserting.submit, plan(2), "d", None, 1, {"priority": 2})[0]
    ahead = {job_id: found.ahead for job_id in (high, older, own, younger) if (found := waits(database, job_id))}
    assert ahead == {high: 0, older: 2, own: 6, younger: 10}
    do(database, jobs.pause, older)
    assert waits(database, own) == Waiting(
        reason="queue", detail="2 shards of other jobs are before its first", ahead=2, starts_in_seconds=None
    )


def test_each_reason_to_wait_is_told(database: Database) -> None:
    job_id, [shard] = submit(database)
    assert reason(database, job_id) == "no_worker"
    alive(database)
    assert reason(database, job_id) == "queue"
    do(database, jobs.pause, job_id)
    assert reason(database, job_id) == "paused"
    do(database, jobs.resume, job_id)
    lease = claimed(database, shard).lease
    assert reason(database, job_id) is None
    do(database, leases.fail_attempt, lease, "t", "d", 9, 100.0)
    backing = waits(database, job_id)
    assert (backing and backing.reason, backing and 95 < (backing.starts_in_seconds or 0) <= 100) == (
        "backing_off",
        True,
    )
    with database.transaction() as session:
        session.execute(update(Shard).values(not_before=None))
        session.execute(update(Job).values(state=JobState.VALIDATING))
    assert reason(database, job_id) == "planning"
    with database.transaction() as session:
        session.execute(update(Job).values(state=JobState.QUEUED))
    lease = claimed(database, shard).lease
    save(database, lease, 0)
    save(database, lease, 1)
    finish(database, lease)
    assert reason(database, job_id) is None


def test_a_worker_that_has_fallen_silent_or_ended_is_none(database: Database) -> None:
    job_id, _ = submit(database)
    alive(database)
    do(database, fleet.end, "h:1")
    assert reason(database, job_id) == "no_worker"
    alive(database)
    assert reason(database, job_id) == "queue"
    with database.transaction() as session:
        session.execute(update(WorkerProcess).values(seen_at=now() - fleet.SILENT_SECONDS - 1))
    assert reason(database, job_id) == "no_worker"
    other, [shard] = submit(database)
    claimed(database, shard)  # by a worker of the version before, which says nothing of itself
    assert reason(database, job_id) == "queue"
    assert other


def test_a_recipe_waits_as_the_first_of_its_parts_does(database: Database) -> None:
    alive(database)
    submit(database, items=3, shard_items=1)
    recipe = submit_recipe(database)
    found = waits(database, recipe.id)
    assert found
    assert (found.reason, found.ahead) == ("parts", 3)
    begin(database, recipe.parts["model"])
    assert waits(database, recipe.id) is None


def test_a_free_worker_begins_at_once_and_a_busy_one_after_what_is_ahead(database: Database) -> None:
    alive(database, threads=2)
    _, [first, second] = submit(database, items=4)
    _, _ = submit(database, items=4)
    job_id, _ = submit(database)
    assert [(w.ahead, w.starts_in_seconds) for w in [waits(database, job_id)] if w] == [(4, None)]
    claimed(database, first)
    claimed(database, second)
    assert [w.starts_in_seconds for w in [waits(database, job_id)] if w] == [None], "nobody knows how fast they are"
    reported(database, first, rate=0.5, image_steps=10)  # of 20, so free in 20 s
    reported(database, second, rate=0.5, image_steps=0)
    # Then two shards of 20 image-steps are before it, at 1 image-step a second together.
    assert [w.starts_in_seconds for w in [waits(database, job_id)] if w] == [20 + 40]
    alive(database, threads=5)
    assert [w.starts_in_seconds for w in [waits(database, job_id)] if w] == [0]


def test_a_long_queue_is_read_once_in_a_while(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FEW", 1)
    ids = [submit(database)[0] for _ in range(3)]

    def ahead(job_id: str) -> int | None:
        return found.ahead if (found := waits(database, job_id)) else None

    assert [ahead(job_id) for job_id in ids] == [0, 1, 2]
    do(database, jobs.cancel, ids[0])
    late, _ = submit(database)
    assert [ahead(ids[1]), ahead(late)] == [1, 3], "as it was, and a new one behind it"


def reads(db: Database) -> list[str]:
    """The statements, from now on, that add up the queue."""
    statements: list[str] = []

    def note(*told: Any) -> None:
        if "sum(shards.item_count)" in told[2]:
            statements.append(told[2])

    event.listen(db.engine, "before_cursor_execute", note)
    return statements


def listed(db: Database) -> list[int | None]:
    with db.reading() as session:
        return [job.waiting.ahead for job in queries.jobs(session, queries.Filter(), 50).jobs if job.waiting]


def test_a_list_reads_the_queue_once_and_large_jobs_now_and_then(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        submit(database, items=4, shard_items=1)
    statements = reads(database)
    assert (listed(database), len(statements)) == ([8, 4, 0], 1)
    monkeypatch.setattr(waiting, "MANY", 11)
    assert listed(database) == listed(database) == listed(database) == [8, 4, 0]
    assert len(statements) == 2


def test_a_stream_of_events_asks_not_why_a_job_waits(database: Database) -> None:
    job_id, _ = submit(database)
    statements = reads(database)
    assert Feed(database, 1).read([job_id])[job_id].report
    assert statements == []


def test_workers_are_listed_with_what_they_hold(database: Database) -> None:
    _, [shard, _] = submit(database, items=4)
    alive(database, worker="a:1")
    alive(database, worker="b:2")
    alive(database, worker="c:3")
    do(database, fleet.end, "b:2")
    with database.transaction() as session:
        session.execute(update(WorkerProcess).where(WorkerProcess.id == "c:3").values(seen_at=now() - 60))
    do(database, leases.claim, shard, "a:1:thread", 60)
    with database.reading() as session:
        found = fleet.workers(session)
    assert [(w.id, w.state, w.shards) for w in found] == [
        ("a:1", "alive", [shard]), ("b:2", "ended", []), ("c:3", "silent", [])
    ]  # fmt: skip
    with database.transaction() as session:
        session.execute(update(WorkerProcess).values(seen_at=now() - fleet.KEPT_SECONDS - 1))
    do(database, fleet.forget)
    with database.reading() as session:
        assert fleet.workers(session) == []


def test_the_queue_is_told_with_the_workers(api: TestClient) -> None:
    before = [post(api, inversion(steps=10)).json()["id"] for _ in range(2)]
    assert api.get("/v1/workers").json() == {"workers": [], "queue": {"shards": 2, "image_steps": 60}}
    assert api.post(f"/v1/jobs/{before[0]}/pause").status_code == 202
    assert api.get("/v1/workers").json()["queue"] == {"shards": 1, "image_steps": 30}


@pytest.mark.slow
def test_the_embedded_worker_says_what_it_is_doing(live_service: LiveService) -> None:
    def workers() -> Any:
        return live_service.client.request("GET", "/v1/workers").json()["workers"]

    until(lambda: len(workers()) == 1)
    job = live_service.submit(inversion(steps=20_000))
    until(lambda: workers()[0]["shards"] == [f"{job['id']}.0"])
    [worker] = workers()
    assert (worker["id"], worker["state"], worker["threads"]) == (f"{worker['host']}:{os.getpid()}", "alive", 4)
    assert worker["device"].startswith(("cpu", "NVIDIA"))
    until(lambda: workers()[0]["image_steps_per_second"] > 0 and workers()[0]["batch_rows"] == 3)
    assert workers()[0]["batch_limit"] == CPU_ROWS
    live_service.client.request("POST", job["links"]["cancel"])


@pytest.mark.e2e
def test_a_worker_process_ends_and_a_killed_one_falls_silent(stack: Stack) -> None:
    states: Callable[[], list[str]] = lambda: [  # noqa: E731
        worker["state"] for worker in stack.client.request("GET", "/v1/workers").json()["workers"]
    ]
    first = stack.start("worker")
    stack.wait_until(lambda: states() == ["alive"])
    stack.end(first)
    assert states() == ["ended"]
    second = stack.start("worker")
    stack.wait_until(lambda: states() == ["alive", "ended"])
    stack.end(second, signal.SIGKILL)
    with stack.db.transaction() as session:
        session.execute(update(WorkerProcess).values(seen_at=WorkerProcess.seen_at - 60))
    assert states() == ["ended", "silent"]


def test_an_estimate_is_by_earlier_shards_of_its_kind(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    like = PARAMETERS.model_dump(mode="json")

    def estimated(**changes: Any) -> tuple[float | None, float | None]:
        with database.reading() as session:
            found = estimates.estimate(session, str(changes.pop("kind", "inversion")), like | changes, 1000, 4)
        assert found.basis
        return found.seconds, found.device_seconds

    assert estimated() == (None, None)
    for rate in (10.0, 20.0, 100.0):
        _, [shard] = submit(database)
        reported(database, shard, rate)
    assert estimated() == (50, 50)
    alive(database, worker="a:1")
    alive(database, worker="b:2")
    assert estimated() == (25, 50)
    monkeypatch.setattr(estimates, "SEEN", 1)  # only the last one
    assert estimated() == (5, 10)
    assert estimated(model="other") == estimated(kind="evaluation") == estimated(precision="bf16") == (None, None)


def test_a_dry_run_answers_the_plan_and_inserts_nothing(api: TestClient) -> None:
    body = inversion(restarts=2)
    answer = api.post("/v1/jobs", params={"dry_run": True}, json=body, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 200
    planned, job = answer.json(), post(api, body, **{"Idempotency-Key": "k"}).json()
    assert planned["parameters"] == job["parameters"]
    assert (planned["kind"], planned["items"], planned["shards"]) == ("inversion", 3, 1)
    assert planned["image_steps"] == job["progress"]["steps_total"] == 3 * 20 * 2
    assert planned["estimate"]["seconds"] is None
    assert "no worker has reported" in planned["estimate"]["basis"]
    assert planned["waiting"]["reason"] == "no_worker"
    assert len(api.get("/v1/jobs").json()["jobs"]) == 1


@pytest.mark.parametrize("kind", ["radius_sweep", "interpolation", "feature_visualization", "feature_manipulation"])
def test_a_dry_run_counts_what_submitting_makes(api: TestClient, kind: str) -> None:
    body = study(kind)
    planned, job = api.post("/v1/jobs?dry_run=true", json=body).json(), post(api, body).json()
    context: Any = api.app.state.context  # type: ignore[attr-defined]
    with context.db.reading() as session:
        shards = session.query(Shard).where(Shard.job_id == job["id"]).count()
    assert (planned["items"], planned["shards"]) == (job["items"]["total"], shards)


def test_a_dry_run_is_refused_as_the_job_would_be(api: TestClient) -> None:
    for body, field in (
        ({"steps": 0}, "steps"),
        ({"model": "x"}, "model"),
        ({"deadline": "2020-01-01T00:00:00Z"}, "deadline"),
    ):
        assert_problem(api.post("/v1/jobs?dry_run=true", json=inversion(**body)), 422, field)
    assert api.post("/v1/jobs?dry_run=true", json=inversion(deadline=LATER)).status_code == 200
