"""/metrics: what a process counts, and what the database says of the queue."""

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text, update
from sqlalchemy.exc import OperationalError

from service import counting, jobs, leases, metrics
from service.broker import NORMAL
from service.db import Database
from service.joblog import Event
from service.metrics import REGISTRY
from service.models import Job, Shard, Transition
from service.settings import Settings
from service.storage import LocalStorage, ObjectNotFound, S3Storage, StorageError
from tests.fixtures import inversion, s3_settings
from tests.servers import Bucket, postgres_execute
from tests.service.scraped import Found, parsed, value
from tests.service.test_jobs import cancel, claimed, do, fail_item, finish, save, submit, submit_with_summary
from tests.service.test_recipe_parts import end, submit_recipe


def of_process() -> Found:
    return parsed(counting.exposition().decode())


def of_queue(db: Database) -> Found:
    return parsed(counting.exposition(counting.QueueCollector(db)).decode())


def asked(api: TestClient) -> Found:
    answer = api.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return parsed(answer.text)


def requests(found: Found, **labels: str) -> float:
    return value(found, "robustreps_http_request_seconds_count", **labels)


def test_requests_are_counted_by_the_template_of_their_route(api: TestClient) -> None:
    def counted(method: str, route: str, status: int) -> float:
        return requests(asked(api), method=method, route=route, status=str(status))

    wanted: list[tuple[str, str, int, Callable[[], Any]]] = [
        ("POST", "/v1/jobs", 202, lambda: api.post("/v1/jobs", json=inversion())),
        ("POST", "/v1/jobs", 422, lambda: api.post("/v1/jobs", json={"kind": "inversion"})),
        ("GET", "/v1/jobs/{job_id}", 404, lambda: api.get("/v1/jobs/job_nowhere")),
        ("GET", "/v1/jobs", 200, lambda: api.get("/v1/jobs")),
        ("GET", "/ui/static", 200, lambda: api.get("/ui/static/app.js")),
        ("GET", "/ui/{path:path}", 200, lambda: api.get("/ui/jobs/1")),
        ("GET", "none", 404, lambda: api.get("/anything/at/all")),
        ("other", "none", 404, lambda: api.request("BREW", "/coffee")),
    ]
    for method, route, status, ask in wanted:
        before = counted(method, route, status)
        assert ask().status_code == status
        assert counted(method, route, status) == before + 1, route


def test_a_label_is_never_an_id_or_an_address(api: TestClient) -> None:
    for path in ("/v1/jobs/job_12345", "/v1/jobs/job_12345/items/7", "/v1/models/mine77", "/x/12345"):
        api.get(path)
    text = api.get("/metrics").text
    assert "12345" not in text
    assert "mine77" not in text


def test_the_queue_is_told_by_state_and_priority(api: TestClient) -> None:
    found = asked(api)
    assert value(found, "robustreps_shards") == value(found, "robustreps_items") == 0
    assert len(found["robustreps_shards"]) == 4 * len(metrics.PRIORITIES), "zeros are there too"
    assert value(found, "robustreps_database_up") == 1


def test_the_queue_is_what_the_database_holds(database: Database) -> None:
    _, (first, *_) = submit(database, items=5, shard_items=2)
    claimed(database, first)
    submit(database, items=1)
    found = of_queue(database)
    assert value(found, "robustreps_shards", state="queued", priority="normal") == 3
    assert value(found, "robustreps_items", state="queued", priority="normal") == 4
    assert value(found, "robustreps_items", state="running", priority="normal") == 2
    assert value(found, "robustreps_jobs", state="running") == 1
    assert 0 < value(found, "robustreps_queue_oldest_seconds", priority="normal") < 600
    assert value(found, "robustreps_queue_oldest_seconds", priority="high") == 0


def test_a_job_waits_since_a_worker_last_had_a_shard_of_it(database: Database) -> None:
    def waited(ago: float) -> float:
        """As it is told when all that has happened so far is so much longer ago."""
        with database.transaction() as session:
            for column in (Job.created_at, Job.finished_at, Transition.at, Shard.heartbeat_at):
                session.execute(update(column.class_).values({column: column - ago}))
        return do(database, counting._read).oldest.get(NORMAL, 0.0)

    job_id, (first, second), _ = submit_with_summary(database)
    assert 5000 <= waited(5000) < 6000, "nobody has had it"
    work = claimed(database, first)
    assert waited(5000) == 0, "a worker computes another shard of it"
    save(database, work.lease, 0)
    do(database, leases.heartbeat, work.lease, 60, {})
    finish(database, work.lease)
    assert waited(0) < 1000
    do(database, jobs.pause, job_id)
    assert waited(5000) == 0
    do(database, jobs.resume, job_id)
    assert waited(0) < 1000
    work = claimed(database, second)
    save(database, work.lease, 1)
    finish(database, work.lease)
    assert waited(0) < 1000
    assert 5000 <= waited(5000) < 6000, "what is made of all items"


def test_a_drawing_waits_since_the_last_part_ended(database: Database) -> None:
    recipe = submit_recipe(database)
    with database.transaction() as session:
        session.execute(update(Transition).values(at=Transition.at - 5000))
        session.execute(update(Job).values(created_at=Job.created_at - 5000))
    end(database, recipe)
    assert 0 < value(of_queue(database), "robustreps_queue_oldest_seconds", priority="normal") < 1000


def test_a_paused_job_waits_for_no_worker(database: Database) -> None:
    job_id, _ = submit(database)
    do(database, jobs.pause, job_id)
    found = of_queue(database)
    assert value(found, "robustreps_shards", state="paused") == 1
    assert value(found, "robustreps_shards", state="queued") == 0
    assert value(found, "robustreps_queue_oldest_seconds") == 0


def test_the_database_is_asked_once_in_some_seconds_however_many_scrape(database: Database) -> None:
    before = of_queue(database)
    submit(database)
    again = of_queue(database)
    assert value(before, "robustreps_jobs") == value(again, "robustreps_jobs") == 0


def test_a_database_that_is_away_is_told() -> None:
    db = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    found = of_queue(db)
    assert value(found, "robustreps_database_up") == 0
    assert "robustreps_jobs" not in found
    db.close()


def test_events_and_waits_are_counted_once_their_transaction_is(database: Database) -> None:
    def counted() -> tuple[float, float, float]:
        found = of_process()
        return (
            value(found, "robustreps_events_total", event="claimed"),
            value(found, "robustreps_events_total", event="lease_lost"),
            value(found, "robustreps_wait_seconds_count", priority="normal"),
        )

    before = counted()
    _, (shard,) = submit(database)
    with suppress(ZeroDivisionError), database.transaction() as session:
        assert leases.claim(session, shard, "worker", 60)
        raise ZeroDivisionError
    assert counted() == before
    work = claimed(database, shard)
    assert counted() == (before[0] + 1, before[1], before[2] + 1)
    do(database, leases.crashed, work.lease, 3)
    claimed(database, shard)
    assert counted() == (before[0] + 1, before[1] + 1, before[2] + 1), "a second claim is no wait"


def test_every_event_is_told_from_0_on() -> None:
    program = "import service.leases; from service import counting; print(counting.exposition().decode())"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert parsed(printed)["robustreps_events_total"] == {frozenset({("event", each.value)}): 0 for each in Event}


def test_a_job_waits_once_however_many_shards_pauses_and_retries_it_has(database: Database) -> None:
    def counted() -> float:
        return value(of_process(), "robustreps_wait_seconds_count")

    before = counted()
    job_id, (first, second), last = submit_with_summary(database)
    work = claimed(database, first)
    assert counted() == before + 1
    fail_item(database, work.lease, 0)
    finish(database, work.lease)
    do(database, jobs.pause, job_id)
    do(database, jobs.resume, job_id)
    work = claimed(database, second)
    save(database, work.lease, 1)
    finish(database, work.lease)
    work = claimed(database, last)
    save(database, work.lease, 2)
    finish(database, work.lease)
    do(database, jobs.retry, job_id)
    claimed(database, first)
    assert counted() == before + 1


def test_what_is_drawn_of_the_rest_of_a_recipe_waits_for_that_and_for_no_worker(database: Database) -> None:
    recipe, before = submit_recipe(database), value(of_process(), "robustreps_wait_seconds_count")
    end(database, recipe)
    claimed(database, recipe.drawing)
    nothing_ran = submit_recipe(database)
    for part in nothing_ran.parts.values():
        cancel(database, part)
    claimed(database, nothing_ran.drawing)
    assert value(of_process(), "robustreps_wait_seconds_count") == before + len(recipe.parts)


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_calls_on_the_storage_are_timed_and_their_failures_counted(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    def counted(operation: str) -> tuple[float, float]:
        found = of_process()
        return (
            value(found, "robustreps_storage_operation_seconds_count", operation=operation),
            value(found, "robustreps_storage_errors_total", operation=operation),
        )

    storage = LocalStorage(tmp_path / "objects") if kind == "local" else _bucket(request.getfixturevalue("s3_bucket"))
    operations = ("write", "read", "delete")
    before = {operation: counted(operation) for operation in operations}
    storage.put("a/b", b"abc", "text/plain")
    assert storage.get("a/b") == b"abc"
    with pytest.raises(ObjectNotFound):
        storage.get("a/c")
    storage.delete("a/b")
    after = {operation: counted(operation) for operation in operations}
    came = {o: after[o][0] - before[o][0] for o in operations}
    assert came == {"write": 1, "read": 2, "delete": 1}
    assert all(after[o][1] == before[o][1] for o in operations), "an object that is not there is no failure"
    broken = LocalStorage(tmp_path / "gone") if kind == "local" else _bucket(request.getfixturevalue("s3_bucket"), "no")
    bad = "../x" if kind == "local" else "a/b"
    with pytest.raises(StorageError):
        broken.put(bad, b"abc", "text/plain")
    assert counted("write")[1] == before["write"][1] + 1


def _bucket(bucket: Bucket, suffix: str = "") -> S3Storage:
    return S3Storage(bucket.name + suffix, Settings(**s3_settings(bucket)))


def test_connections_are_counted_while_they_are_in_use(database: Database) -> None:
    def used() -> float:
        return value(of_process(), "robustreps_database_connections", state="in_use")

    before = used()
    with database.reading() as session:
        session.connection()
        assert used() == before + 1
    assert used() == before


def test_connections_are_counted_right_after_an_outage(postgres_url: str, postgres_server: str) -> None:
    def counted(state: str) -> float:
        return value(of_process(), "robustreps_database_connections", state=state)

    before, opened, db = counted("in_use"), counted("open"), Database(postgres_url)
    name = db.url.database
    sever = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    with db.reading() as used, db.reading() as idle:
        used.connection(), idle.connection()
        idle.close()
        assert counted("in_use") == before + 1
        postgres_execute(postgres_server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        postgres_execute(postgres_server, sever)
        with pytest.raises(OperationalError):
            used.execute(text("SELECT 1"))
        used.rollback()
    for _ in range(3):
        with pytest.raises(OperationalError), db.reading() as session:
            session.connection()
        assert counted("in_use") == before
    postgres_execute(postgres_server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    with db.reading() as session:
        session.connection()
        assert counted("in_use") == before + 1
    db.close()
    assert (counted("in_use"), counted("open")) == (before, opened)


def test_what_is_counted_costs_a_request_a_few_microseconds() -> None:
    began, calls = time.thread_time(), 20_000
    for _ in range(calls):
        metrics.request("GET", "/v1/jobs/{job_id}", 200, 0.001)
    assert (time.thread_time() - began) / calls < 50e-6, "some 2 microseconds, on a calm machine"


def test_names_keep_to_prometheus_conventions() -> None:
    for family in REGISTRY.collect():
        if family.name.startswith("robustreps_"):
            assert not family.name.endswith(("_total", "_count", "_ms", "_milliseconds", "_kb")), family.name
            assert family.documentation
