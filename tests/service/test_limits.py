"""Backpressure: what is beyond a limit is refused with a time to come back, and memory is bounded."""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from sqlalchemy import update
from structlog.testing import capture_logs

from service import jobs, limits
from service.api.artifacts import IN_MEMORY
from service.app import create_app
from service.broker import MOST_WAITING, Broker, celery_app
from service.client import ApiError, Client
from service.db import Database
from service.errors import InvalidInput, TooManyQueued
from service.models import Artifact, Job, Shard
from service.serving import running
from service.settings import Settings
from service.states import ShardState
from service.storage import artifact_key
from tests.fixtures import inversion, workerless
from tests.service.bodies import figure, post_recipe
from tests.service.test_api import assert_problem, post
from tests.service.test_jobs import do, submit

SEVEN, TEN = {"max_queued_items_per_client": 7}, {"max_queued_items": 10}
ADA, BOB = {"Authorization": "Bearer ada"}, {"Authorization": "Bearer bob"}


@pytest.fixture
def narrow(settings: Settings) -> Iterator[TestClient]:
    """The API without a worker: ten items in all may wait, seven of one client."""
    with workerless(settings.model_copy(update=SEVEN | TEN)) as client:
        yield client


def test_one_client_is_refused_and_another_is_not(narrow: TestClient) -> None:
    for _ in range(2):
        assert post(narrow, inversion(), **ADA).status_code == 202
    refused = post(narrow, inversion(), **ADA)
    problem = assert_problem(refused, 429)
    assert problem["type"] == "/problems/too-many-queued"
    assert problem["detail"] == "6 items are queued and 3 more asked for; allowed for one client: 7"
    assert refused.headers["retry-after"] == "30"
    assert post(narrow, inversion(), **BOB).status_code == 202
    assert "the service: 10" in assert_problem(post(narrow, inversion()), 429)["detail"]
    assert len(narrow.get("/v1/jobs").json()["jobs"]) == 3


def test_room_comes_back_when_a_job_is_over(narrow: TestClient) -> None:
    first, _ = (post(narrow, inversion()).json() for _ in range(2))
    assert post(narrow, inversion()).status_code == 429
    narrow.post(first["links"]["cancel"])
    assert post(narrow, inversion()).status_code == 202


def test_a_replay_is_never_refused(narrow: TestClient) -> None:
    first = post(narrow, inversion(), **{"Idempotency-Key": "k"}).json()
    post(narrow, inversion())
    assert post(narrow, inversion()).status_code == 429
    assert post(narrow, inversion(), **{"Idempotency-Key": "k"}).json()["id"] == first["id"]


def test_a_recipe_counts_with_its_parts(narrow: TestClient) -> None:
    assert post_recipe(narrow, "figure-3", figure("figure-3")).status_code == 202  # two parts of two, and the figure
    assert "5 items are queued" in assert_problem(post(narrow, inversion()), 429)["detail"]


def test_what_will_never_fit_is_not_told_to_come_back(narrow: TestClient) -> None:
    body = inversion(targets={"source": "dataset", "dataset": "cifar10-sample", "indices": [0] * 8})
    assert "allowed for one client: 7" in assert_problem(post(narrow, body), 422, "body")["detail"]


def test_clients_are_told_apart_by_what_they_authorize_with(api: TestClient) -> None:
    context: Any = api.app.state.context  # type: ignore[attr-defined]
    ids = [post(api, inversion(), **headers).json()["id"] for headers in (ADA, ADA, BOB, {})]
    with context.db.reading() as session:
        clients = [session.get_one(Job, job_id).client for job_id in ids]
    assert clients[0] == clients[1] != clients[2]
    assert clients[3] == "testclient"
    assert not any("ada" in client for client in clients)


def test_the_pause_is_what_the_workers_speed_foretells(database: Database) -> None:
    settings = Settings(max_queued_items=100)
    job_id, (shard, *_) = submit(database, 90, 45)
    for rate, pause in ((None, 30), (40.0, 10), (400.0, 5), (0.01, 300)):  # of 10 image-steps an item; 40 are too many
        values = {"state": ShardState.RUNNING, "progress": {"rate": rate} if rate else {}}
        with database.transaction() as session:
            session.execute(update(Shard).where(Shard.id == shard).values(values))
        with pytest.raises(TooManyQueued) as refused:
            do(database, limits.check, settings, "somebody", 50)
        assert refused.value.headers == {"Retry-After": str(pause)}
    do(database, jobs.pause, job_id)
    with pytest.raises(TooManyQueued):  # what is paused waits too
        do(database, limits.check, settings, "somebody", 11)
    do(database, limits.check, settings, "somebody", 10)


def test_a_limit_is_met_exactly(database: Database) -> None:
    do(database, limits.check, Settings(max_queued_items=5), None, 5)
    with pytest.raises(InvalidInput):
        do(database, limits.check, Settings(max_queued_items=5), None, 6)


@pytest.mark.slow
def test_a_client_submits_again_when_it_is_asked_to(narrow: TestClient) -> None:
    context: Any = narrow.app.state.context  # type: ignore[attr-defined]
    config = uvicorn.Config(create_app(context.settings, context), port=0, log_config=None, access_log=False)
    with running(uvicorn.Server(config)) as url, Client(url) as hasty, Client(url, busy_seconds=20) as patient:
        first, second = (hasty.submit(**inversion()) for _ in range(2))
        with pytest.raises(ApiError, match="Too Many Requests") as refused:
            hasty.submit(**inversion())
        assert refused.value.retry_after == 30
        with pytest.raises(ApiError, match="Too Many Requests"):  # 30 seconds are more than it may wait
            patient.submit(**inversion())
        with context.db.transaction() as session:
            held = {"state": ShardState.RUNNING, "progress": {"rate": 1e6}}
            session.execute(update(Shard).where(Shard.job_id == second["id"]).values(held))
        timer = threading.Timer(1, narrow.post, [first["links"]["cancel"]])
        timer.start()
        begun = time.monotonic()
        assert patient.submit(**inversion())["state"] == "queued"
        assert 5 <= time.monotonic() - begun < 25
        timer.join()


@pytest.mark.parametrize("size", [IN_MEMORY, IN_MEMORY + 1])
def test_an_artifact_of_any_size_is_served_as_stored(api: TestClient, size: int) -> None:
    context: Any = api.app.state.context  # type: ignore[attr-defined]
    job = post(api, inversion()).json()["id"]
    stored = context.storage.put(artifact_key(job, 0, 1, "images.csv"), bytes(size), "text/csv")
    with context.db.transaction() as session:
        session.add(Artifact(job_id=job, item_index=0, name="images.csv", media_type="text/csv", **stored._asdict()))
    got = api.get(f"/v1/jobs/{job}/items/0/artifacts/images.csv")
    assert hashlib.sha256(got.content).hexdigest() == stored.sha256
    assert (got.headers["etag"], int(got.headers["content-length"])) == (f'"{stored.sha256}"', stored.size)
    assert got.headers["cache-control"] == "private, no-cache", "a retry may make it anew"
    listed = api.get(f"/v1/jobs/{job}/items/0").json()["artifacts"][0]["url"]
    assert "immutable" in api.get(listed).headers["cache-control"]
    assert "immutable" not in api.get(listed[:-1] + "x").headers["cache-control"]
    assert api.get(listed, headers={"If-None-Match": got.headers["etag"]}).status_code == 304
    assert got.headers["content-type"].startswith("text/csv")


def test_a_path_is_cut_before_it_is_logged(api: TestClient) -> None:
    with capture_logs() as logs:
        assert api.post("/v1/" + "key-a-" * 2000).status_code == 404
    assert [len(entry["path"]) for entry in logs if entry["event"] == "request"] == [500]


def test_messages_do_not_pile_up_while_the_broker_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, capture_logs() as logs:
        broker = Broker(celery_app(Settings(broker_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0",
                                            database_url="postgresql+psycopg://nobody@127.0.0.1:1/none")))  # fmt: skip
        for n in range(3):
            broker.enqueue(f"job_{n}.{i}" for i in range(MOST_WAITING))
        assert broker._ids.qsize() <= MOST_WAITING
        assert [entry["event"] for entry in logs if "too many" in entry["event"]] == [
            "too many messages wait to be sent; the reconciler will send the others"
        ]
        broker.close()
    broker._thread.join(60)
    assert not broker._thread.is_alive()
