"""Pause, resume, retry, deadlines and dead letters, as clients see them."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, create_engine, event, insert, select, update

from service import dead_letters
from service.client import ApiError
from service.db import Database
from service.models import Item, Job, Shard
from service.settings import Settings
from service.states import JobState, ShardState
from tests.fixtures import LiveService, inversion
from tests.service.bodies import figure, post_recipe
from tests.service.test_api import assert_problem, post
from tests.service.test_images import encode, noise
from tests.service.test_jobs import submit

LATER = "2099-12-31T23:30:00+02:00"
ONE = {"source": "dataset", "dataset": "cifar10-sample", "indices": [0]}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "study": ("/v1/jobs", inversion()),
    "recipe": ("/v1/recipes/figure-3", figure("figure-3")),
    "table": ("/v1/recipes/table-4", figure("table-4")),
    "evaluation": ("/v1/jobs", {"kind": "evaluation", "model": "cifar10-robust", "dataset": "cifar10-sample"}),
    "training": ("/v1/jobs", {"kind": "training", "architecture": "cifar-resnet-small", "dataset": "cifar10-sample"}),
    "data set": ("/v1/datasets", {"name": "mine", "format": "npz", "path": "x.npz"}),
    "model": ("/v1/models", {"name": "mine", "source": {"source": "torchvision", "weights": "A_Weights.B"}}),
}
BAD = {
    "a number": 4102444800, "a number as text": "4102444800", "a day": "2099-12-31", "no zone": "2099-12-31T23:30:00",
    "no such day": "2099-02-30T00:00:00Z", "words": "tomorrow", "beyond the calendar": "9999-12-31T23:59:59-14:00",
    "the past": "2020-01-01T00:00:00Z", "a truth value": True,
}  # fmt: skip


def soon(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def files(settings: Settings) -> Engine:
    """The live service's database, from outside."""
    return create_engine(settings.database)


def test_a_deadline_is_answered_in_utc_and_is_no_parameter(api: TestClient) -> None:
    job = post(api, inversion(deadline=LATER)).json()
    assert job["deadline"] == "2099-12-31T21:30:00Z"
    assert "deadline" not in job["parameters"]
    assert post(api, inversion()).json()["deadline"] is None


def test_the_parts_of_a_recipe_have_its_deadline(api: TestClient) -> None:
    job = post_recipe(api, "figure-3", figure("figure-3", deadline=LATER)).json()
    parts = api.get("/v1/jobs", params={"parent": job["id"]}).json()["jobs"]
    assert [each["deadline"] for each in (job, *parts)] == ["2099-12-31T21:30:00Z"] * 3
    assert "deadline" not in job["parameters"]["request"]


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_time_to_come_is_refused(api: TestClient, case: str) -> None:
    assert_problem(post(api, inversion(deadline=BAD[case])), 422, "deadline")
    assert api.get("/v1/jobs").json()["jobs"] == []


@pytest.mark.parametrize("name", REQUESTS)
def test_every_request_may_have_a_deadline(api: TestClient, name: str) -> None:
    path, body = REQUESTS[name]
    assert_problem(api.post(path, json=body | {"deadline": "soon"}), 422, "deadline")
    answer = api.post(path, json=body | {"deadline": LATER})
    assert answer.status_code == 202 or "deadline" not in answer.text


def test_a_deadline_in_another_zone_is_the_same_request_and_another_time_is_not(api: TestClient) -> None:
    first = post(api, inversion(deadline=LATER), **{"Idempotency-Key": "k"}).json()
    again = post(api, inversion(deadline="2099-12-31T21:30:00Z"), **{"Idempotency-Key": "k"}).json()
    assert first["id"] == again["id"]
    assert_problem(post(api, inversion(), **{"Idempotency-Key": "k"}), 422)


def test_a_replay_is_answered_after_its_deadline(api: TestClient) -> None:
    body = inversion(deadline=soon(5))
    first = post(api, body, **{"Idempotency-Key": "k"})
    time.sleep(5.1)
    assert post(api, body, **{"Idempotency-Key": "k"}).json()["id"] == first.json()["id"]
    assert_problem(post(api, body), 422, "deadline")


def test_a_job_that_outlives_its_deadline_expires(live_service: LiveService) -> None:
    job = live_service.submit(inversion(steps=50_000, deadline=soon(8)))
    over = live_service.wait(job["id"])
    assert over["state"] == "expired"
    assert over["error"]["title"] == "Deadline passed"
    assert over["items"]["cancelled"] == 3


def test_a_paused_job_is_sent_for_when_it_is_resumed(api: TestClient) -> None:
    context: Any = api.app.state.context  # type: ignore[attr-defined]
    job = post(api, inversion()).json()
    until(lambda: context.broker.depth() == 1)
    for _ in range(2):  # the second changes nothing
        paused = api.post(job["links"]["pause"])
        assert (paused.status_code, paused.json()["state"]) == (202, "paused")
    assert context.broker.depth() == 1
    for _ in range(2):
        assert api.post(job["links"]["resume"]).json()["state"] == "queued"
    until(lambda: context.broker.depth() == 2)


def test_a_recipe_is_paused_and_resumed_with_its_parts(api: TestClient) -> None:
    job = post_recipe(api, "figure-3", figure("figure-3")).json()
    for verb, state in (("pause", "paused"), ("resume", "queued")):
        assert api.post(job["links"][verb]).json()["state"] == state
        parts = api.get("/v1/jobs", params={"parent": job["id"]}).json()["jobs"]
        assert [part["state"] for part in parts] == [state, state]


def test_what_a_state_does_not_allow_is_a_conflict(api: TestClient) -> None:
    job = post(api, inversion()).json()
    assert_problem(api.post(job["links"]["retry"]), 409)  # nothing failed
    api.post(job["links"]["cancel"])
    for verb in ("pause", "resume", "retry"):
        assert_problem(api.post(job["links"][verb]), 409)
        assert_problem(api.post(f"/v1/jobs/none/{verb}"), 404)


@pytest.mark.slow
def test_a_running_job_is_let_go_when_paused_and_ends_when_resumed(
    live_service: LiveService, settings: Settings
) -> None:
    job = live_service.submit(inversion(steps=1500, targets=ONE))
    until(lambda: live_service.client.job(job["id"])["progress"]["steps_done"] > 0)
    assert live_service.client.pause(job["id"])["state"] == "paused"
    engine = files(settings)
    held = select(Shard.worker).where(Shard.job_id == job["id"], Shard.state == ShardState.RUNNING)

    def let_go() -> bool:
        with engine.connect() as connection:
            return connection.execute(held).all() == []

    until(let_go)
    time.sleep(2 * settings.reconcile_seconds)
    assert let_go()
    paused = live_service.client.job(job["id"])
    assert (paused["state"], paused["items"]["queued"], paused["progress"]["rate"]) == ("paused", 1, None)
    assert paused["progress"]["steps_done"] > 0
    assert live_service.client.resume(job["id"])["state"] in ("queued", "running")
    assert live_service.wait(job["id"], 240)["state"] == "succeeded"
    engine.dispose()


def test_what_failed_succeeds_when_its_cause_is_gone_and_it_is_retried(
    live_service: LiveService, settings: Settings
) -> None:
    client = live_service.client
    image = client.upload(encode(noise(size=(32, 32))))
    lost = settings.data_dir / "objects" / "images" / image.removeprefix("sha256:")
    away = lost.rename(Path(f"{lost}.away"))
    mixed = {"source": "mixed", "parts": [ONE, {"source": "images", "images": [image]}]}
    job = live_service.submit(inversion(targets=mixed))
    over = live_service.wait(job["id"])
    assert over["state"] == "partially_succeeded"
    (letter,) = client.dead_letters()
    failed = client.request("GET", letter["url"]).json()
    assert (letter["job"], letter["index"], letter["kind"], letter["state"]) == (
        job["id"],
        1,
        "inversion",
        over["state"],
    )
    assert (letter["error"], letter["epoch"]) == (failed["error"], failed["epoch"])
    away.rename(lost)
    assert client.retry(job["id"])["state"] in ("queued", "running")
    assert live_service.wait(job["id"])["state"] == "succeeded"
    first, second = client.items(job["id"])
    assert second["epoch"] > letter["epoch"] >= first["epoch"]
    assert list(client.dead_letters()) == []
    with pytest.raises(ApiError, match="no failed items"):
        client.retry(job["id"])


def failing(db: Database, jobs: int, items: int, every: int) -> list[str]:
    """Jobs of which every so-manieth item failed: title 'odd' where its index is odd, three at each time."""
    ids = [submit(db, items, 64)[0] for _ in range(jobs)]
    with db.transaction() as session:
        for n, job_id in enumerate(ids):
            for index in range(0, items, every):
                error = {"title": "odd" if index % 2 else "even", "detail": ""}
                values = {
                    "state": "failed",
                    "error": error,
                    "finished_at": 1000.5 + (index * jobs + n) // 3,
                    "epoch": 2,
                }
                session.execute(update(Item).where(Item.job_id == job_id, Item.index == index).values(values))
    return ids


def letters(db: Database, limit: int, **filters: str) -> list[dead_letters.DeadLetter]:
    found, cursor = [], None
    while True:
        with db.reading() as session:
            page = dead_letters.find(session, filters.get("job"), filters.get("title"), limit, cursor)
        assert len(page.dead_letters) <= limit
        found += page.dead_letters
        if (cursor := page.next_cursor) is None:
            return found


def test_dead_letters_are_paged_newest_first_and_filtered(database: Database) -> None:
    ids = failing(database, jobs=3, items=9, every=1)
    found = letters(database, 4)
    times = [letter.finished_at for letter in found if letter.finished_at]
    assert times == sorted(times, reverse=True)
    assert {(letter.job, letter.index) for letter in found} == {(job_id, i) for job_id in ids for i in range(9)}
    assert len(found) == 27
    assert found == letters(database, 500)
    assert {letter.job for letter in letters(database, 2, job=ids[1])} == {ids[1]}
    assert [letter.index for letter in letters(database, 2, job=ids[0], title="odd")] == [7, 5, 3, 1]
    assert letters(database, 2, title="none") == []


def test_dead_letters_read_only_what_failed(database: Database) -> None:
    job_id = failing(database, jobs=1, items=600, every=100)[0]
    with database.transaction() as session:  # many more, so that another plan would cost more
        row = {"job_id": job_id, "shard_id": f"{job_id}.0", "state": "succeeded", "target": {}, "start": {}}
        session.execute(insert(Item), [row | {"index": i} for i in range(600, 6000)])
    if not database.sqlite:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE items")
    plans: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def explain(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if "FROM items" in statement:
            how = "EXPLAIN QUERY PLAN" if database.sqlite else "EXPLAIN"
            plans.append(str(cursor.execute(f"{how} {statement}", parameters).fetchall()))

    assert len(letters(database, 4)) == 6
    assert len(plans) == 2
    assert all("ix_items_failed" in plan and "Seq Scan" not in plan for plan in plans)


@pytest.mark.parametrize(("query", "field"), [("job=%00", "job"), ("title=%00", "title"), ("cursor=eA", "cursor")])
def test_bad_filters_of_dead_letters_are_refused(api: TestClient, query: str, field: str) -> None:
    assert_problem(api.get(f"/v1/dead-letters?{query}"), 422, field)
    assert api.get("/v1/dead-letters").json() == {"dead_letters": [], "next_cursor": None}


def test_a_job_from_before_clients_were_known_is_answered(api: TestClient) -> None:
    context: Any = api.app.state.context  # type: ignore[attr-defined]
    job = post(api, inversion()).json()
    with context.db.transaction() as session:
        session.execute(update(Job).values(client=None, state=JobState.QUEUED))
    assert api.get(job["links"]["self"]).json()["id"] == job["id"]
