"""A job's log: every claim, end and loss of a shard, every failure, and what clients asked, once each."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from service import joblog, jobs, leases, log_lists
from service.db import Database
from service.errors import InvalidInput, NotFound
from service.joblog import Event, Level
from service.leases import LeaseLost
from service.models import Job
from service.storage import Stored
from tests.service.test_jobs import cancel, claim, claimed, crash, do, fail_attempt, fail_item, finish, save, submit
from tests.service.test_recipe_parts import submit_recipe


def read(db: Database, job_id: str, shard: int | None = None, level: Level | None = None) -> list[log_lists.LogEntry]:
    return do(db, log_lists.find, job_id, shard, level, 100, None).logs


def told(db: Database, job_id: str) -> list[tuple[Any, ...]]:
    """From the oldest on."""
    return [(line.event, line.shard, line.epoch, line.detail) for line in read(db, job_id)[::-1]]


def test_a_shards_life_is_told(database: Database) -> None:
    job_id, shards = submit(database, 4, 2)
    lease = claimed(database, shards[1]).lease
    do(database, leases.save_checkpoint, lease, Stored("k/1", 7, "0" * 64))
    finish(database, lease)
    lease = claimed(database, shards[1]).lease
    save(database, lease, 2)
    fail_item(database, lease, 3)
    fail_item(database, lease, 3)  # the answer to the first was lost
    finish(database, lease)
    assert told(database, job_id) == [
        ("claimed", 1, 1, {"items": 2, "checkpoint": False}), ("checkpointed", 1, 1, {"size": 7}),
        ("released", 1, 1, {"state": "queued"}), ("taken_over", 1, 2, {"items": 2, "checkpoint": True}),
        ("item_failed", 1, 2, {"item": 3, "title": "Title", "detail": "detail"}),
        ("released", 1, 2, {"state": "done"}),
    ]  # fmt: skip
    lines = read(database, job_id)
    assert {line.worker for line in lines} == {"worker"}
    assert [line.at for line in lines] == sorted((line.at for line in lines), reverse=True)


def test_attempts_that_fail_are_told_and_what_they_end(database: Database) -> None:
    job_id, [shard] = submit(database)
    for n in range(2):
        fail_attempt(database, claimed(database, shard).lease, max_attempts=2, pause=0)
        assert len(told(database, job_id)) == 2 * (n + 1)
    error = {"title": "Title", "detail": "detail"}
    assert told(database, job_id)[1::2] == [
        ("attempt_failed", 0, 1, error | {"attempts": 1, "pause": 0.0, "state": "queued"}),
        ("items_failed", 0, 2, error | {"items": 2}),
    ]


def test_a_worker_that_falls_silent_is_told_and_what_it_leads_to(database: Database) -> None:
    job_id, [shard] = submit(database)
    for _ in range(2):
        crash(database, shard)
    crash(database, shard)
    why = {"why": "the worker fell silent"}
    lost = [(event, epoch, detail) for event, _, epoch, detail in told(database, job_id) if "claim" not in event]
    assert [each for each in lost if each[0] != "taken_over"] == [
        ("lease_lost", 1, why | {"crashes": 1}), ("lease_lost", 2, why | {"crashes": 2}), ("split", 2, {"items": 2}),
        ("lease_lost", 3, why | {"crashes": 3}),
        ("items_failed", 3, {"title": "Quarantined", "items": 1, "detail": lost[-1][2]["detail"]}),
    ]  # fmt: skip


def test_what_clients_ask_is_told_of_a_job_and_its_parts(database: Database) -> None:
    recipe, _, parts, _ = submit_recipe(database)
    for change in (jobs.pause, jobs.pause, jobs.resume, jobs.cancel, jobs.cancel):
        do(database, change, recipe)
    for job_id in (recipe, *parts.values()):
        assert [line[:3] for line in told(database, job_id)] == [
            (event, None, None) for event in ("paused", "resumed", "cancelled")
        ]


def test_a_retry_and_a_deadline_are_told(database: Database) -> None:
    job_id, [shard] = submit(database)
    lease = claimed(database, shard).lease
    for index in (0, 1):
        fail_item(database, lease, index)
    finish(database, lease)
    do(database, jobs.retry, job_id)
    assert told(database, job_id)[-1] == ("retried", None, None, {"items": 2})
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(deadline=1.0))
    for _ in range(2):
        do(database, jobs.expire, job_id)
    assert [line[0] for line in told(database, job_id)[-2:]] == ["retried", "expired"]


def test_nothing_is_told_of_what_did_not_happen(database: Database) -> None:
    job_id, [shard] = submit(database)
    lease = claimed(database, shard).lease
    assert claim(database, shard) is None
    finish(database, lease)
    before = told(database, job_id)
    with pytest.raises(LeaseLost):
        finish(database, lease)
    with pytest.raises(LeaseLost):
        fail_item(database, lease, 0)
    assert told(database, job_id) == before


def test_shard_and_level_narrow_and_pages_are_the_log(database: Database) -> None:
    job_id, shards = submit(database, 4, 2)
    for shard in shards:
        lease = claimed(database, shard).lease
        fail_item(database, lease, 0 if shard == shards[0] else 2)
    cancel(database, job_id)
    assert [line.event for line in read(database, job_id, shard=1)] == ["item_failed", "claimed"]
    assert [line.shard for line in read(database, job_id, level=Level.ERROR)] == [1, 0]
    assert read(database, job_id, shard=1, level=Level.WARNING) == []
    first = do(database, log_lists.find, job_id, None, None, 3, None)
    rest = do(database, log_lists.find, job_id, None, None, 3, first.next_cursor)
    assert first.logs + rest.logs == read(database, job_id)
    assert (len(rest.logs), rest.next_cursor) == (2, None)
    with pytest.raises(InvalidInput, match="cursor"):
        do(database, log_lists.find, job_id, None, None, 3, "!")
    with pytest.raises(NotFound):
        read(database, "none")


def test_the_newest_lines_of_each_job_are_kept(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblog, "KEPT", 3)
    monkeypatch.setattr(joblog, "EVERY", 1)
    job_id, other = submit(database)[0], submit(database)[0]
    do(database, joblog.note, other, Event.PAUSED)
    for n in range(5):
        do(database, joblog.note, job_id, Event.RETRIED, items=n)
    assert [line.detail["items"] for line in read(database, job_id)] == [4, 3, 2]
    assert len(read(database, other)) == 1


def test_nobody_waits_for_old_lines(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    db = Database(postgres_url)
    job_id = submit(db)[0]
    do(db, joblog.note, job_id, Event.PAUSED)
    do(db, joblog.note, job_id, Event.RESUMED)
    monkeypatch.setattr(joblog, "KEPT", 1)
    monkeypatch.setattr(joblog, "EVERY", 1)
    with db.transaction() as session:
        joblog.note(session, job_id, Event.PAUSED)  # and forgets the first two, which it holds from now on
        do(db, joblog.note, job_id, Event.RESUMED)
    db.close()


def test_the_api_answers_the_log(api: TestClient) -> None:
    db = api.app.state.context.db  # type: ignore[attr-defined]
    job_id, [shard] = submit(db)
    claimed(db, shard)
    logs = api.get(f"/v1/jobs/{job_id}").json()["links"]["logs"]
    api.post(f"/v1/jobs/{job_id}/pause")
    paused, [claim_line] = api.get(logs).json()["logs"][0], api.get(logs, params={"shard": 0}).json()["logs"]
    assert {paused[name] for name in ("shard", "epoch", "worker")} == {None}
    assert (paused["event"], paused["level"], claim_line["event"]) == ("paused", "info", "claimed")
    assert claim_line["at"].endswith("Z")
    assert api.get(logs, params={"level": "fatal"}).status_code == 422
