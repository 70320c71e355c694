"""A storage that goes away while a worker computes: its attempts do not count, and the job ends when it is back."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from service.db import Database
from service.models import Shard
from service.settings import Settings
from tests.fixtures import LiveService, inversion
from workers import context

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Attempts follow each other quickly, and two that count are all."""
    return settings.model_copy(update={"retry_seconds": 0.2, "reconcile_seconds": 0.2, "max_attempts": 2})


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "STORAGE_SECONDS", 0.2)


@contextmanager
def away(folder: Path) -> Iterator[None]:
    """The folder is a file meanwhile."""
    elsewhere = folder.with_name("elsewhere")
    folder.rename(elsewhere)
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()
        elsewhere.rename(folder)


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Objects of jobs cannot be written, though the storage itself can be."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs").touch()
    try:
        yield
    finally:
        (folder / "jobs").unlink()


def shard(db: Database, job_id: str) -> Shard:
    with db.reading() as session:
        return session.get_one(Shard, f"{job_id}.0")


def wait_for(db: Database, job_id: str, epoch: int) -> Shard:
    """The shard once it was claimed so often."""
    end = time.monotonic() + 240
    while (found := shard(db, job_id)).epoch < epoch:
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def test_attempts_during_an_outage_do_not_count(settings: Settings, live_service: LiveService) -> None:
    folder, db = Path(settings.storage), Database(settings.database)
    with away(folder):
        job_id = live_service.submit(inversion(steps=5))["id"]
        assert wait_for(db, job_id, 5).attempts == 0
    assert live_service.wait(job_id)["state"] == "succeeded"
    db.close()


def test_attempts_that_a_working_storage_refuses_do(settings: Settings, live_service: LiveService) -> None:
    folder, db = Path(settings.storage), Database(settings.database)
    with suppress(FileNotFoundError):
        shutil.rmtree(folder / "jobs")
    with unwritable(folder):
        job_id = live_service.submit(inversion(steps=5))["id"]
        job = live_service.wait(job_id)
    assert (job["state"], shard(db, job_id).attempts, shard(db, job_id).epoch) == ("failed", 2, 2)
    error = next(live_service.client.items(job_id))["error"]
    assert (error["title"], error["detail"].startswith("cannot write")) == ("StorageError", True)
    live_service.client.retry(job_id)
    assert live_service.wait(job_id)["state"] == "succeeded"
    db.close()


def test_a_checkpoint_that_is_not_what_was_stored_is_told_in_the_log(
    settings: Settings, live_service: LiveService
) -> None:
    client, db = live_service.client, Database(settings.database)
    job = live_service.submit(inversion(steps=50_000))
    while not client.job(job)["progress"]["steps_done"]:
        time.sleep(0.05)
    client.pause(job)
    while (kept := shard(db, job["id"])).state != "queued":
        time.sleep(0.05)
    assert kept.checkpoint is not None
    (Path(settings.storage) / kept.checkpoint["key"]).write_bytes(b"torn")
    client.resume(job)
    wait_for(db, job["id"], 2)
    client.cancel(job)
    live_service.wait(job["id"])
    [lost] = client.logs(job, level="warning")
    assert (lost["event"], lost["epoch"], lost["detail"]) == (
        "checkpoint_lost",
        2,
        {"why": "it is not what was stored"},
    )
    db.close()
