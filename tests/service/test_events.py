"""Event streams: what a client hears of a job, over real connections, on SQLite and on Postgres."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from sqlalchemy import update

from service import events, jobs, leases
from service.app import create_app, open_context
from service.db import Database, now
from service.models import Job
from service.server import Server
from service.serving import running
from service.settings import Settings
from tests.service.test_api import assert_problem
from tests.service.test_jobs import cancel, claimed, do, fail_item, finish, heartbeat, save, state_of, submit

MOST = 64
WHERE = {"headers": "Last-Event-ID", "params": "last_event_id"}
WHOLE = ["validating", "queued", "running", "finalizing", "succeeded"]


@dataclass(frozen=True)
class Served:
    """The API on a port of its own, without a worker."""

    http: httpx2.Client
    db: Database
    server: Server

    def events(self, job_id: str, **how: Any) -> list[httpx2.ServerSentEvent]:
        """All of a job's, until the server closes the stream."""
        with self.streaming(job_id, **how) as stream:
            return list(stream)

    @contextmanager
    def streaming(self, job_id: str, **how: Any) -> Iterator[Iterator[httpx2.ServerSentEvent]]:
        with self.http.stream("GET", f"/v1/jobs/{job_id}/events", **how) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            yield iter(httpx2.EventSource(response))


@pytest.fixture
def served(database: Database, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    url = database.url.render_as_string(hide_password=False)
    broker = {} if database.sqlite else {"broker_url": request.getfixturevalue("redis_url")}
    settings = Settings(data_dir=tmp_path / "data", database_url=url, max_streams=MOST, **broker)
    context = open_context(settings)
    server = Server(uvicorn.Config(create_app(settings, context), port=0, log_config=None, access_log=False))
    limits = httpx2.Limits(max_connections=None)
    with running(server) as address, httpx2.Client(base_url=address, timeout=120, limits=limits) as http:
        yield Served(http, database, server)
    context.broker.close()
    context.db.close()


def states(events: list[httpx2.ServerSentEvent]) -> list[str]:
    return [json.loads(e.data)["state"] for e in events if e.event == "state"]


def complete(db: Database, shard: str, *failed: int) -> None:
    """Claim a shard and end all its items, some of them in failure."""
    work = claimed(db, shard)
    for item in work.items:
        if item.index in failed:
            fail_item(db, work.lease, item.index)
        else:
            save(db, work.lease, item.index)
    finish(db, work.lease)


def next_state(stream: Iterator[httpx2.ServerSentEvent]) -> str:
    return str(next(json.loads(e.data)["state"] for e in stream if e.event in ("state", "end")))


def test_a_job_that_is_over_is_told_whole_and_the_stream_ends(served: Served) -> None:
    job_id, [shard] = submit(served.db)
    complete(served.db, shard)
    events = served.events(job_id)
    assert states(events) == WHOLE
    assert [e.event for e in events[-2:]] == ["progress", "end"]
    ids = [int(e.id) for e in events if e.event == "state"]
    assert ids == sorted(set(ids))
    report = json.loads(events[-2].data)
    assert (report["items"]["succeeded"], report["progress"]["fraction"]) == (2, 1)
    assert json.loads(events[-1].data) == {"job": job_id, "state": "succeeded"}
    job = served.http.get(f"/v1/jobs/{job_id}").json()
    assert [json.loads(e.data) for e in events if e.event == "state"] == [
        {"job": job_id, **transition} for transition in job["transitions"]
    ]


def test_a_state_is_told_as_it_is_entered(served: Served) -> None:
    job_id, [shard] = submit(served.db)
    with served.streaming(job_id) as stream:
        assert [next_state(stream) for _ in range(2)] == ["validating", "queued"]
        do(served.db, jobs.pause, job_id)
        assert next_state(stream) == "paused"
        do(served.db, jobs.resume, job_id)
        assert next_state(stream) == "queued"
        complete(served.db, shard)
        assert [next_state(stream) for _ in range(4)] == ["running", "finalizing", "succeeded", "succeeded"]
        assert list(stream) == []


def test_progress_is_told_where_it_changed_and_at_most_once_a_second(served: Served) -> None:
    job_id, [shard] = submit(served.db)
    lease = claimed(served.db, shard).lease
    steps: list[int] = []

    def listen() -> None:
        with served.streaming(job_id) as stream:
            for event in stream:
                if event.event == "progress":
                    steps.append(json.loads(event.data)["progress"]["steps_done"])

    listener = threading.Thread(target=listen)
    listener.start()
    begun = time.monotonic()
    for step in range(1, 31):
        progress = {"image_steps": min(step, 15), "rate": 2.0, "curve": []}
        do(served.db, leases.heartbeat, lease, 60, progress)
        time.sleep(0.1)
    cancel(served.db, job_id)
    finish(served.db, lease)
    listener.join(60)
    lasted = time.monotonic() - begun
    assert steps[:-1] == sorted(set(steps[:-1]))
    assert 15 in steps
    assert 3 <= len(steps) <= 2 + lasted


@pytest.mark.parametrize("where", WHERE)
def test_who_comes_back_hears_every_state_since_and_none_twice(served: Served, where: str) -> None:
    job_id, [shard] = submit(served.db)
    with served.streaming(job_id) as stream:
        first = [next(stream), next(stream)]
    do(served.db, jobs.pause, job_id)
    do(served.db, jobs.resume, job_id)
    complete(served.db, shard)
    rest = served.events(job_id, **{where: {WHERE[where]: first[-1].id}})
    assert states(first) + states(rest) == ["validating", "queued", "paused", *WHOLE[1:]]


def test_who_has_heard_the_end_need_not_come_back_until_the_job_goes_on(served: Served) -> None:
    job_id, [shard] = submit(served.db)
    complete(served.db, shard, 1)
    *_, state, _, end = served.events(job_id)
    assert states([state]) == ["partially_succeeded"]
    assert [e.event for e in served.events(job_id, headers={"Last-Event-ID": state.id})] == ["progress", "end"]
    url = f"/v1/jobs/{job_id}/events"
    assert served.http.get(url, headers={"Last-Event-ID": end.id}).status_code == 204
    do(served.db, jobs.retry, job_id)
    complete(served.db, shard)
    assert states(served.events(job_id, headers={"Last-Event-ID": end.id})) == WHOLE[1:]


def test_a_job_that_is_deleted_meanwhile_ends_its_streams(served: Served) -> None:
    job_id, _ = submit(served.db)
    with served.streaming(job_id) as stream:
        assert next_state(stream) == "validating"
        with served.db.transaction() as session:
            session.execute(update(Job).where(Job.id == job_id).values(deleted_at=now()))
        assert [json.loads(e.data)["state"] for e in stream if e.event == "end"] == ["deleted"]
    assert_problem(served.http.get(f"/v1/jobs/{job_id}/events"), 404)


@pytest.mark.parametrize("bad", ["x", "-1", "1.5", "9" * 19, "end"])
def test_an_id_that_was_never_told_is_refused(served: Served, bad: str) -> None:
    job_id, _ = submit(served.db)
    url = f"/v1/jobs/{job_id}/events"
    assert_problem(served.http.get(url, headers={"Last-Event-ID": bad}), 422, "Last-Event-ID")
    assert_problem(served.http.get(url, params={"last_event_id": bad}), 422, "last_event_id")


def test_no_stream_of_an_unknown_job(served: Served) -> None:
    assert_problem(served.http.get("/v1/jobs/job_none/events"), 404)


def test_streams_hold_no_thread_and_no_connection_and_no_more_than_may_are_open(served: Served) -> None:
    job_id, _ = submit(served.db)
    with ExitStack() as exits:
        streams = [exits.enter_context(served.streaming(job_id)) for _ in range(MOST)]
        assert [next_state(stream) for stream in streams] == ["validating"] * MOST
        refused = served.http.get(f"/v1/jobs/{job_id}/events")
        assert assert_problem(refused, 503)["type"] == "/problems/too-many-streams"
        assert refused.headers["retry-after"] == "5"
        with ThreadPoolExecutor(16) as pool:  # 64 streams, 40 threads, 30 connections: others are served nonetheless
            answers = list(pool.map(lambda _: served.http.get(f"/v1/jobs/{job_id}"), range(64)))
        assert {a.status_code for a in answers} == {200}
        cancel(served.db, job_id)
        assert [[next_state(s) for _ in range(3)] for s in streams] == [["queued", "cancelling", "cancelled"]] * MOST


def test_the_place_of_a_client_that_went_away_is_free_again(served: Served) -> None:
    job_id, _ = submit(served.db)
    feed: Any = served.server.config.app.state.feed  # type: ignore[union-attr]
    for _ in range(3):
        with ExitStack() as exits:
            streams = [exits.enter_context(served.streaming(job_id)) for _ in range(10)]
            assert [next_state(stream) for stream in streams] == ["validating"] * 10
            assert len(feed._watches) == 10
        end = time.monotonic() + 60
        while feed._watches:
            assert time.monotonic() < end, "a stream was not noticed to be gone"
            time.sleep(0.05)
    assert served.http.get("/v1/jobs/job_none/events").status_code == 404
    assert len(feed._watches) == 0


def test_each_stream_hears_of_its_own_job_whatever_else_goes_on(served: Served) -> None:
    submitted = [submit(served.db) for _ in range(12)]
    with ThreadPoolExecutor(24) as pool:
        heard = [pool.submit(served.events, job_id) for job_id, _ in submitted]
        done = [pool.submit(complete, served.db, shards[0]) for _, shards in submitted]
        for each in done:
            each.result()
        for (job_id, _), events in zip(submitted, heard, strict=True):
            assert states(events.result()) == WHOLE
            assert {json.loads(e.data)["job"] for e in events.result() if e.event != "progress"} == {job_id}


def test_a_server_that_ends_ends_its_streams_at_once(served: Served) -> None:
    job_id, _ = submit(served.db)
    with served.streaming(job_id) as stream:
        assert next_state(stream) == "validating"
        begun = time.monotonic()
        served.server.should_exit = True
        assert [e.event for e in stream if e.event == "end"] == []
        assert time.monotonic() - begun < 60, "it would wait for ever"
    assert state_of(served.db, job_id) == "queued"


def test_silence_is_broken_by_comments(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PING", 3.0)
    job_id, _ = submit(served.db)
    with closing(httpx2.Client(base_url=served.http.base_url, timeout=30)) as http:
        begun = time.monotonic()
        with http.stream("GET", f"/v1/jobs/{job_id}/events") as response:
            assert next(line for line in response.iter_lines() if line.startswith(":")) == ": ping"
        assert 2.5 < time.monotonic() - begun < 60


def test_heartbeats_reach_the_stream(served: Served) -> None:
    job_id, [shard] = submit(served.db)
    lease = claimed(served.db, shard).lease
    with served.streaming(job_id) as stream:
        assert next(json.loads(e.data)["progress"]["steps_done"] for e in stream if e.event == "progress") == 0
        heartbeat(served.db, lease)
        assert next(json.loads(e.data)["progress"]["steps_done"] for e in stream if e.event == "progress") == 4
