"""What an operator does by hand: jobs are taken up again, and it stands in their logs; one screen tells how it goes."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from typer.testing import CliRunner, Result

from service import cli, fleet, jobs, leases, overview, requeue
from service.bulk_models import LogLine, Webhook, WorkerProcess
from service.db import Database, now
from service.errors import Conflict, NotFound
from service.joblog import Event
from service.leases import LeaseLost
from service.models import Shard
from service.settings import Settings, get_settings
from service.states import JobState
from tests.fixtures import migrated, s3_settings
from tests.servers import Bucket
from tests.service.test_jobs import (
    cancel,
    claim,
    claimed,
    do,
    fail_item,
    finish,
    item_states,
    save,
    shard_of,
    state_of,
    submit,
)
from tests.service.test_recipe_parts import submit_recipe

INFO: dict[str, Any] = {
    "host": "h", "device": "cpu", "version": "1", "threads": 4, "image_steps_per_second": 0.0, "busy": 0.0,
    "batch_rows": 0,
}  # fmt: skip


def noted(db: Database) -> list[dict[str, Any]]:
    with db.reading() as session:
        return list(session.scalars(select(LogLine.detail).where(LogLine.event == Event.REQUEUED)))


def with_failures(db: Database) -> tuple[str, list[str]]:
    """A job of two shards, an item of each of which failed."""
    job_id, shards = submit(db, items=4)
    for n, shard in enumerate(shards):
        lease = claimed(db, shard).lease
        fail_item(db, lease, 2 * n)
        save(db, lease, 2 * n + 1)
        finish(db, lease)
    return job_id, shards


def test_what_failed_of_a_job_is_computed_again_and_the_log_says_who_asked(database: Database) -> None:
    job_id, shards = with_failures(database)
    assert do(database, requeue.requeue, job_id, "ann@host") == (2, 0, 0)
    assert state_of(database, job_id) == JobState.QUEUED
    assert item_states(database, job_id) == ["queued", "succeeded"] * 2
    assert noted(database) == [{"by": "ann@host", "items": 2, "shards": 0, "taken": 0}]
    assert sorted(do(database, jobs.to_send, job_id)) == shards


def test_of_one_shard_no_others_items_are_computed_again(database: Database) -> None:
    job_id, shards = with_failures(database)
    assert do(database, requeue.requeue, shards[1], "ann@host") == (1, 0, 0)
    assert item_states(database, job_id) == ["failed", "succeeded", "queued", "succeeded"]
    assert noted(database)[0]["shard"] == 1


def test_what_waits_is_sent_for_again_at_once_and_with_all_its_attempts(database: Database) -> None:
    job_id, [shard] = submit(database)
    assert do(database, jobs.to_send, job_id) == [], "it was sent for, and that message is lost"
    with database.transaction() as session:
        session.execute(update(Shard).values(attempts=4, crashes=1, not_before=now() + 300))
    assert do(database, requeue.requeue, job_id, "ann@host") == (0, 1, 0)
    row = shard_of(database, shard)
    assert (row.attempts, row.crashes, row.not_before) == (0, 0, None)
    assert do(database, jobs.to_send, job_id) == [shard]


def test_a_shard_is_taken_from_its_worker_only_if_asked_and_that_worker_is_fenced_out(database: Database) -> None:
    job_id, [shard] = submit(database)
    lease = claimed(database, shard).lease
    with pytest.raises(Conflict, match="--take"):
        do(database, requeue.requeue, job_id, "ann@host")
    assert noted(database) == []
    assert do(database, requeue.requeue, job_id, "ann@host", True) == (0, 0, 1)
    row = shard_of(database, shard)
    assert (row.state, row.crashes, row.attempts, row.lease_expires_at) == ("queued", 0, 0, None)
    with pytest.raises(LeaseLost):
        save(database, lease, 0)
    again = claim(database, shard)
    assert again is not None
    assert again.lease.epoch == lease.epoch + 1


def test_a_recipe_is_taken_up_with_its_parts(database: Database) -> None:
    recipe, _, of_labels, _ = submit_recipe(database)
    parts = list(of_labels.values())
    for part in parts:
        for shard in shards_of(database, part):
            lease = claimed(database, shard).lease
            do(database, leases.give_up, lease, "Title", "detail")
    assert do(database, requeue.requeue, recipe, "ann@host").items >= len(parts)
    assert {state_of(database, part) for part in parts} == {"queued"}


def shards_of(db: Database, job_id: str) -> list[str]:
    with db.reading() as session:
        return list(session.scalars(select(Shard.id).where(Shard.job_id == job_id)))


def test_what_is_over_for_good_or_not_there_is_refused(database: Database) -> None:
    job_id, _ = submit(database)
    cancel(database, job_id)
    done, [shard] = submit(database)
    lease = claimed(database, shard).lease
    for n in (0, 1):
        save(database, lease, n)
    finish(database, lease)
    for name, error, said in (
        (job_id, Conflict, "cancelled"), (done, Conflict, "succeeded"), ("job_x", NotFound, "job_x"),
        (f"{done}.7", NotFound, f"{done}.7"),
    ):  # fmt: skip
        with pytest.raises(error, match=said):
            do(database, requeue.requeue, name, "ann@host")


def test_jobs_that_failed_are_found_by_cause_and_by_when(database: Database) -> None:
    job_id, _ = with_failures(database)
    cancelled, [shard] = submit(database)
    fail_item(database, claimed(database, shard).lease, 0)
    cancel(database, cancelled)
    with database.reading() as session:
        assert list(requeue.failed(session)) == [job_id]
        assert list(requeue.failed(session, "Title", 3600)) == [job_id]
        assert list(requeue.failed(session, "Other")) == []
        assert list(requeue.failed(session, within=-1)) == []


def test_a_worker_that_is_told_to_drain_hears_of_it_until_another_has_its_name(database: Database) -> None:
    assert not do(database, fleet.announce, "h:1", INFO, True)
    do(database, requeue.drain, "h:1")
    assert do(database, fleet.announce, "h:1", INFO)
    assert do(database, fleet.announce, "h:1", INFO), "its answer may have been lost"
    assert not do(database, fleet.announce, "h:1", INFO, True)
    assert not do(database, fleet.announce, "h:1", INFO)
    with database.reading() as session:
        assert [each.id for each in fleet.workers(session)] == ["h:1"]


def test_only_a_worker_that_is_alive_is_told_to_drain(database: Database) -> None:
    do(database, fleet.announce, "h:1", INFO)
    with pytest.raises(NotFound, match="alive are: h:1"):
        do(database, requeue.drain, "h:2")
    with database.transaction() as session:
        session.execute(update(WorkerProcess).values(ended_at=now()))
    with pytest.raises(Conflict, match="not alive"):
        do(database, requeue.drain, "h:1")


@pytest.fixture
def admin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `robustreps admin ...` on an embedded service's files."""
    (tmp_path / "robustreps.db").write_bytes(migrated())
    monkeypatch.setenv("ROBUSTREPS_DATA_DIR", str(tmp_path))
    get_settings.cache_clear()
    yield lambda *words: CliRunner().invoke(cli.app, ["admin", *words])
    get_settings.cache_clear()


def test_one_screen_says_how_the_service_does(admin: Any, tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'robustreps.db'}")
    with_failures(db)
    _, [shard] = submit(db)
    claimed(db, shard)
    submit(db)
    do(db, fleet.announce, "h:1", INFO)
    db.close()
    shown: Result = admin("status")
    assert shown.exit_code == 0, shown.output
    for said in ("schema     ok", "running 1", "queued 1", "1 alive, 4 threads", "2 items of 1 jobs", "h:1"):
        assert said in shown.stdout
    found = json.loads(admin("status", "--json").stdout)
    assert (found["works"], found["shards"]["running"], found["failed"]) == (True, 1, {"items": 2, "jobs": 1})


def test_a_server_that_is_away_is_named_and_is_the_status(postgres_url: str, redis_url: str, s3_bucket: Bucket) -> None:
    values = s3_settings(s3_bucket) | {"database_url": postgres_url, "broker_url": redis_url}
    away = Settings(**values | {"s3_endpoint": "http://127.0.0.1:9"})
    found = overview.read(away)
    assert (found["works"], found["servers"]["storage"], found["servers"]["schema"]) == (False, "unreachable", "ok")
    assert found["messages"] == {"shards-high": 0, "shards-normal": 0, "shards-low": 0}
    assert any("unreachable" in line for line in overview.lines(found))


def test_requeue_by_command_goes_on_past_what_is_refused(admin: Any, tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'robustreps.db'}")
    job_id, _ = with_failures(db)
    dry = admin("requeue", "--failed", "--within", "1h", "--dry-run", "--json")
    assert json.loads(dry.stdout) == {"id": job_id, "items": 2, "shards": 0, "taken": 0}
    assert item_states(db, job_id).count("failed") == 2
    done = admin("requeue", "job_x", job_id)
    assert done.exit_code == 3
    assert "no job job_x" in done.output
    assert f"{job_id}: 2 failed items" in done.output
    assert item_states(db, job_id).count("failed") == 0
    assert [each["by"].count("@") for each in noted(db)] == [1]
    db.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["requeue"], "--failed"), (["requeue", "a", "--failed"], "--failed"),
        (["requeue", "a", "--title", "T"], "--title"),
        (["requeue", "--failed", "--within", "1y"], "1y"), (["workers", "drain", "h:1"], "robustreps serve"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_a_usage_error_that_says_what_is_allowed(
    admin: Any, words: list[str], said: str
) -> None:
    done = admin(*words)
    assert (done.exit_code, said in done.output) == (2, True)


def test_objects_of_nobody_are_counted_then_removed(admin: Any, tmp_path: Path) -> None:
    stray = tmp_path / "objects/jobs/job_x/items/0/1/a.png"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"x")
    assert "would remove 1 of 1 objects" in admin("gc", "--dry-run", "--strangers").stdout
    assert "removed 0 of 1 objects" in admin("gc").stdout
    assert "removed 1 of 1 objects" in admin("gc", "--strangers").stdout
    assert not stray.exists()


def test_there_is_a_webhook_table_row_for_what_is_disabled(database: Database) -> None:
    with database.transaction() as session:
        session.add(Webhook(id="w", url="http://x", secrets=[], events=[], labels={}, created_at=0, disabled_at=1))
    with database.reading() as session:
        assert overview._rows(session)["disabled_webhooks"] == 1
