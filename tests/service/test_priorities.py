"""More urgent jobs are begun first: on Redis and in the embedded mode, also when a job's priority changes."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from service import fleet
from service.broker import QUEUES, Broker, celery_app
from service.bulk_models import Planning
from service.db import Database, now
from service.models import Job, Shard
from service.reconciler import Reconciler
from service.settings import Settings
from tests.fixtures import LiveService, inversion
from tests.service.bodies import figure, post_recipe
from tests.service.test_api import post
from tests.service.test_jobs import do, submit, submit_with_summary
from tests.service.test_lifecycle import until
from tests.service.test_recipe_parts import begin, complete, shard_state, submit_recipe

HIGH, NORMAL, LOW, BEFORE = QUEUES
INFO = {"host": "h", "device": "cpu", "version": "1", "threads": 2, "image_steps_per_second": 1.0, "busy": 0.5,
        "batch_rows": 3}  # fmt: skip


@pytest.fixture(params=["redis", "memory"])
def broker_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "memory":
        return Settings(data_dir=tmp_path)
    return Settings(broker_url=request.getfixturevalue("redis_url"))  # no test here opens a database


@pytest.mark.e2e
def test_workers_take_the_most_urgent_message_first(broker_settings: Settings) -> None:
    broker, taken = Broker(celery_app(broker_settings)), []
    with broker.app.connection_for_write() as connection:  # in memory, other tests of this process have left theirs
        for name in QUEUES.values():
            with connection.SimpleQueue(name) as queue:
                queue.clear()
    for n in range(20):
        for name, priority in (("low", LOW), ("normal", NORMAL), ("high", HIGH)):
            broker.send((f"{name}.{n}", priority))
    broker.app.amqp.queues.select(list(QUEUES.values()))  # as a worker with these in --queues does
    with broker.app.connection_for_read() as connection:

        def take(message: Any) -> None:
            taken.append(message.payload[0][0])
            message.ack()
            if taken[-1] == "normal.5":
                broker.send(("high.late", HIGH))

        with broker.app.amqp.TaskConsumer(connection.channel(), on_message=take) as consumer:
            consumer.qos(prefetch_count=1)
            while len(taken) < 61:
                connection.drain_events(timeout=60)
    broker.close()
    late = taken.index("high.late")
    assert late <= taken.index("normal.5") + 2, "it does not wait behind what is less urgent"
    del taken[late]
    assert taken == [f"{name}.{n}" for name in ("high", "normal", "low") for n in range(20)]


def depths(api: TestClient) -> tuple[int, ...]:
    context: Any = api.app.state.context  # type: ignore[attr-defined]
    return tuple(context.broker.depth(priority) for priority in (HIGH, NORMAL, LOW))


def test_a_jobs_shards_are_sent_by_its_priority_and_again_when_that_changes(api: TestClient) -> None:
    before = depths(api)

    def more() -> tuple[int, ...]:
        return tuple(after - had for after, had in zip(depths(api), before, strict=True))

    for n, priority in enumerate(("high", "normal", "low")):
        job = post(api, inversion(priority=priority)).json()
        until(lambda n=n: more() == (1,) * (n + 1) + (0,) * (2 - n))  # type: ignore[misc]
    patched = api.patch(job["links"]["self"], json={"priority": "high"})
    assert (patched.status_code, patched.json()["priority"]) == (200, "high")
    until(lambda: more() == (2, 1, 1))
    api.patch(job["links"]["self"], json={"priority": "high"})  # which changes nothing
    assert more() == (2, 1, 1)


def test_the_parts_of_a_recipe_have_its_priority_now_and_later(api: TestClient) -> None:
    job = post_recipe(api, "figure-3", figure("figure-3", priority="low")).json()
    parts = [api.get(f"/v1/jobs/{part}").json() for part in job["parts"].values()]
    assert {each["priority"] for each in (job, *parts)} == {"low"}
    refused = api.patch(parts[0]["links"]["self"], json={"priority": "high"})
    assert refused.status_code == 409
    api.patch(job["links"]["self"], json={"priority": "high"})
    assert {api.get(f"/v1/jobs/{each['id']}").json()["priority"] for each in (job, *parts)} == {"high"}


@pytest.mark.slow
def test_a_message_of_a_job_that_became_less_urgent_is_sent_on(live_service: LiveService) -> None:
    # Four shards keep the worker's threads, so that the message waits with a priority that its job then loses.
    busy = [live_service.submit(inversion(steps=3000)) for _ in range(4)]
    until(lambda: len(live_service.client.request("GET", "/v1/workers").json()["workers"][0]["shards"]) == 4)
    late = live_service.submit(inversion(priority="high"))
    live_service.client.request("PATCH", late["links"]["self"], json={"priority": "low"})
    assert live_service.client.job(late["id"])["waiting"]["reason"] == "queue"
    for job in busy:
        live_service.client.request("POST", job["links"]["cancel"])
    assert live_service.wait(late["id"])["state"] == "succeeded"


@pytest.mark.e2e
@pytest.mark.parametrize("known", [True, False])
def test_lost_messages_go_where_a_worker_takes_them(database: Database, redis_url: str, known: bool) -> None:
    jobs = {priority: submit(database)[0] for priority in (LOW, NORMAL, HIGH)}
    for priority, job_id in jobs.items():
        with database.transaction() as session:
            session.execute(update(Job).where(Job.id == job_id).values(priority=priority))
    if known:
        do(database, fleet.announce, "h:1", INFO)
    # A worker from before there were priorities says nothing of itself, and knows one queue only.
    assert sent_again(database, redis_url) == ((1, 1, 1, 0) if known else (1, 1, 1, 3))


def sent_again(database: Database, redis_url: str) -> tuple[int, ...]:
    """How many messages each queue has when the reconciler has looked twice."""
    for _ in range(2):
        with database.transaction() as session:
            session.execute(update(Shard).values(sent_at=now() - 60))
        broker = Broker(celery_app(Settings(broker_url=redis_url)))
        Reconciler(database, broker, Settings(reconcile_seconds=1)).reconcile()
        broker.close()
    return tuple(map(broker.depth, QUEUES))


@pytest.mark.e2e
def test_a_worker_of_the_version_before_is_sent_nothing_that_it_cannot_do(database: Database, redis_url: str) -> None:
    _, of_all, _ = submit_with_summary(database)  # whose last shard waits; the others any worker can do
    recipe = submit_recipe(database)
    for part in recipe.parts.values():
        complete(database, begin(database, part))
    begun, _ = submit_recipe(database), submit(database)
    planned, _ = submit(database)
    with database.transaction() as session:
        session.add(Planning(job_id=planned, total=2))
    assert shard_state(database, recipe.drawing) == "queued"
    queued = len(of_all) + 1 + len(begun.parts) + 1 + 1
    assert sent_again(database, redis_url) == (0, queued, 0, len(of_all) + 1)
