"""An upgrade under load: the processes of the release before are exchanged for this version's, and nobody notices.

What ran before is that release's own code (`tests.release`), on the packages of today. The two compute alike as long as
the engine is the same: a change of its sums fails here, until the release that has it is packed.
"""

import io
import itertools
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from safetensors.torch import load
from sqlalchemy import func, select
from torch import Tensor

from deploy.servers import usable_port
from service import fleet
from service.bulk_models import LogLine
from service.db import Database, migrate
from service.joblog import Event
from service.models import Job, Shard
from service.remote.transport import Transport as Api
from tests import release
from tests.fixtures import inversion, s3_settings
from tests.servers import Bucket, new_database
from tests.stack import PATIENCE, ROBUSTREPS, Process

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3000)]
ONE: dict[str, Any] = {"targets": {"source": "dataset", "dataset": "cifar10-sample", "indices": [5]}}
SHORT = [inversion(steps=10, deterministic=True, seed=seed, **ONE) for seed in (1, 2, 3)]
LONG = inversion(steps=300, deterministic=True, **ONE)
AFTER = 2
"""Requests that succeed after each move before the next one is made."""
AMISS = (Event.ATTEMPT_FAILED, Event.LEASE_LOST, Event.SPLIT, Event.ITEM_FAILED, Event.ITEMS_FAILED, Event.STALLED)


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@dataclass
class Service:
    """Processes of two versions over one database, broker and bucket, and who calls them."""

    before: Path
    settings: dict[str, str]
    db: Database
    running: list[Process] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    leaving: set[str] = field(default_factory=set)
    failures: list[tuple[str, httpx2.TransportError]] = field(default_factory=list)
    turns: Iterator[int] = field(default_factory=itertools.count)

    def start(self, command: str, old: bool, **settings: str) -> Process:
        values = self.settings | settings
        environment = release.environment(self.before, values) if old else os.environ | values
        process = subprocess.Popen([ROBUSTREPS, command], env=environment)
        self.running.append(process)
        return process

    def serve(self, old: bool) -> tuple[str, Process]:
        """An API that is ready, which clients know of."""
        port = usable_port()
        process = self.start("serve", old, ROBUSTREPS_PORT=str(port))
        address = f"http://127.0.0.1:{port}"
        until(lambda: ready(address))
        self.addresses.append(address)
        return address, process

    def work(self, old: bool) -> Process:
        """A worker that says that it lives."""
        process = self.start("worker", old)
        until(lambda: process.pid in self.alive())
        return process

    def alive(self) -> set[int]:
        with self.db.reading() as session:
            return {int(each.id.rpartition(":")[2]) for each in fleet.workers(session) if each.state == "alive"}

    def call(self, method: str, path: str, **kwargs: Any) -> httpx2.Response:
        """A request, sent again, to the next process each time, as long as one does not answer. Raises ApiError."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for _ in range(len(self.addresses)):
                address = self.addresses[next(self.turns) % len(self.addresses)]
                api = Api(address, PATIENCE)
                api.pauses = ()
                try:
                    return api.request(method, path, **kwargs)
                except httpx2.TransportError as e:
                    self.failures.append((address, e))
                finally:
                    api.close()
            time.sleep(0.1)
        raise AssertionError("nobody answers")

    def submit(self, body: dict[str, Any]) -> str:
        key = {"Idempotency-Key": uuid.uuid4().hex}
        return str(self.call("POST", "/v1/jobs", json=body, headers=key).json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/v1/jobs/{job_id}").json()
        return found

    def results(self, job_id: str) -> list[dict[str, Tensor]]:
        """Of every item, once the job has succeeded."""
        until(lambda: self.job(job_id)["finished_at"])
        assert self.job(job_id)["state"] == "succeeded"
        items = self.call("GET", f"/v1/jobs/{job_id}/items").json()["items"]
        urls = [a["url"] for item in items for a in item["artifacts"] if a["name"] == "result.safetensors"]
        return [load(self.call("GET", url).content) for url in urls]

    def leave(self, address: str, process: Process) -> None:
        self.leaving.add(address)
        assert self.end(process) == 0

    def end(self, process: Process) -> int:
        process.send_signal(signal.SIGTERM)
        return process.wait(PATIENCE)

    def stop(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


def ready(address: str) -> bool:
    try:
        return httpx2.get(f"{address}/readyz", trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False


class Load:
    """A client that posts images and jobs, one after the other, until it is told to stop."""

    def __init__(self, service: Service) -> None:
        self.service, self.jobs, self.images = service, dict[str, int](), list[str]()
        self.error: BaseException | None = None
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)

    def goes_on(self) -> None:
        """Until it has done some more."""
        before = len(self.jobs)
        until(lambda: self.error or len(self.jobs) >= before + AFTER)
        assert self.error is None, self.error

    def _run(self) -> None:
        try:
            while not self._stop.wait(1):
                self.images.append(
                    self.service.call("POST", "/v1/images", content=picture(len(self.images))).json()["id"]
                )
                which = len(self.jobs) % len(SHORT)
                job_id = self.service.submit(SHORT[which])
                self.jobs[job_id] = which
                assert self.service.job(job_id)["id"] == job_id
        except BaseException as e:
            self.error = e


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (number % 256, number // 256, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def service(tmp_path: Path, postgres_server: str, redis_url: str, s3_bucket: Bucket) -> Iterator[Service]:
    """The release before: two processes of the API and a worker, on its own schema."""
    with ExitStack() as stack:
        url = stack.enter_context(new_database(postgres_server, "template1"))
        migrate(url, release.revision())
        values = s3_settings(s3_bucket) | {
            "database_url": url, "broker_url": redis_url, "heartbeat_seconds": 0.3, "lease_seconds": 100,
            "reconcile_seconds": 1, "checkpoint_seconds": 0.5, "deterministic_rows": 2, "drain_seconds": 3600,
            "data_dir": tmp_path / "data", "worker_nice": 0,
        }  # fmt: skip
        db = Database(url)
        stack.callback(db.close)
        service = Service(
            release.unpack(tmp_path / "before"), {f"ROBUSTREPS_{n.upper()}": str(v) for n, v in values.items()}, db
        )
        stack.callback(service.stop)
        yield service


def test_an_upgrade_under_load_is_not_noticed(service: Service) -> None:
    (first, old_first), (second, old_second) = service.serve(old=True), service.serve(old=True)
    old_worker = service.work(old=True)
    unbroken = [service.results(service.submit(body)) for body in (*SHORT, LONG)]
    with Load(service) as load:
        load.goes_on()
        assert service.start("migrate", old=False).wait(PATIENCE) == 0
        load.goes_on()  # what ran before runs on the new schema
        service.serve(old=False)
        load.goes_on()
        service.leave(first, old_first)
        load.goes_on()
        service.serve(old=False)
        service.leave(second, old_second)
        load.goes_on()
        handed = service.submit(LONG)
        until(lambda: service.job(handed)["progress"]["steps_done"] > 0)
        assert service.end(old_worker) == 0
        assert service.job(handed)["state"] == "running", "there was something to hand over"
        service.work(old=False)
        load.goes_on()
    assert load.error is None
    for job_id, which in load.jobs.items():
        assert is_same(service.results(job_id), unbroken[which])
    assert is_same(service.results(handed), unbroken[-1]), "begun by the one version, ended by the other"
    assert {address for address, _ in service.failures} == service.leaving
    assert [e for _, e in service.failures if isinstance(e, httpx2.TimeoutException)] == []
    for image in load.images:
        assert service.call("GET", f"/v1/images/{image}").status_code == 200
    assert_nothing_was_lost(service, {*load.jobs, handed}, len(unbroken))


def is_same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> bool:
    equal = [a[name].equal(b[name]) for a, b in zip(one, other, strict=True) for name in a]
    return bool(one) and all(equal) and [set(a) for a in one] == [set(b) for b in other]


def assert_nothing_was_lost(service: Service, jobs: set[str], others: int) -> None:
    """Every job is there once, and no attempt, no crash and no lease was used up."""
    with service.db.reading() as session:
        ids = set(session.scalars(select(Job.id)))
        used = session.scalars(select(Shard.id).where((Shard.attempts > 0) | (Shard.crashes > 0))).all()
        amiss = session.scalars(select(LogLine.event).where(LogLine.event.in_(AMISS))).all()
        claims = session.scalar(select(func.max(Shard.epoch)))
    assert jobs <= ids
    assert len(ids) == len(jobs) + others
    assert (used, amiss) == ([], [])
    assert (claims or 0) >= 2, "what the old worker let go of, the new one took"
