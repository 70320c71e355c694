"""What a recipe may do with its shard: report progress, ask whether to stop, save an item, fail an item."""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from service import jobs
from service.jobs import Directive, LeaseLost, Work
from service.keys import checkpoint_key
from service.registry import Also
from service.storage import StorageError, Stored, artifact_key
from workers.engine.turns import Turns
from workers.runtime import Runtime

log = structlog.get_logger()
CURVE_POINTS = 60


class ShardContext:
    """Holds the lease while a recipe computes. A thread of its own sends heartbeats, but only while work moves on."""

    def __init__(self, runtime: Runtime, work: Work) -> None:
        self.runtime, self.work = runtime, work
        self._moves = self._image_steps = self._resumed = 0
        self._began: float | None = None
        self._curve: list[tuple[int, float]] = []
        self._stop, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat {work.lease.shard_id}", daemon=True)

    def __enter__(self) -> "ShardContext":
        self._thread.start()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if error[0] is None and not self._stop.is_set():
            with suppress(LeaseLost, SQLAlchemyError):  # the whole curve; whoever finishes the shard meets the error
                self._send()

    def report(self, step: int, image_steps: int, value: float | None = None) -> None:
        """The shard's optimisations have made `image_steps` in all; its curve is at `value` after `step` of each."""
        if self._began is None:
            self._began, self._resumed = time.monotonic(), image_steps
        self._moves += 1
        self._image_steps = image_steps
        if value is not None and math.isfinite(value):
            curve = [*self._curve, (step, value)]
            self._curve = curve if len(curve) <= CURVE_POINTS else curve[::2]

    @property
    def turns(self) -> Turns:
        """Whose turn it is on the device."""
        return self.runtime.batcher.turns

    def alive(self) -> None:
        """Work that is no search has moved on; until a search begins, a shard has `loading_seconds` without this."""
        self._moves += 1

    def should_stop(self) -> bool:
        """Whether to let go: the job is being cancelled, this process shuts down, or the lease is lost."""
        return self._stop.is_set() or self.runtime.draining.is_set()

    def save(
        self,
        index: int,
        metrics: Mapping[str, Any],
        provenance: Mapping[str, Any],
        files: Mapping[str, tuple[bytes | Path | Stored, str]],
        also: Sequence[Also] = (),
    ) -> None:
        """Store an item's files (with media types, by name), then commit the rows that point to them.

        A file is bytes, a path, or what `put` has stored already. `also` is written in the same transaction. Raises
        LeaseLost, StorageError, or what `also` raises.
        """
        lease = self.work.lease
        stored = {}
        for name, (data, media_type) in files.items():
            if not isinstance(data, Stored):
                data = self.put(artifact_key(lease.job_id, index, lease.epoch, name), data, media_type)
            stored[name] = (data, media_type)
        with self.runtime.db.transaction() as session:
            jobs.save_item(session, lease, index, metrics, provenance, stored)
            for write in also:
                write(session)
        self._moves += 1

    def put(self, key: str, data: bytes | Path, media_type: str = "application/octet-stream") -> Stored:
        """Store an object; the row that points to it comes later. Raises StorageError."""
        storage = self.runtime.storage
        if isinstance(data, Path):
            return self._patiently(lambda: storage.put_file(key, data, media_type))
        stored = storage.put(key, data, media_type)
        self._moves += 1
        return stored

    def _patiently(self, call: Callable[[], Stored]) -> Stored:
        """The call's answer. A large file may take longer than a lease without a heartbeat lives; storages time out."""
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(call)
            while not wait([future], timeout=1).done:
                self._moves += 1
            return future.result()

    def checkpoint(self, index: int, path: Path, step: int) -> None:
        """Keep the file at `path` as where a later claim goes on with an item. Raises LeaseLost or StorageError."""
        lease = self.work.lease
        stored = self.put(checkpoint_key(lease.job_id, index, lease.epoch, step), path)
        with self.runtime.db.transaction() as session:
            before = jobs.save_checkpoint(session, lease, index, stored, step)
        if before is not None and before != stored.key:
            with suppress(StorageError):  # an orphan, which nothing points to
                self.runtime.storage.delete(before)

    def epoch(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        """What training measured after an epoch, counted from 1. Raises LeaseLost."""
        with self.runtime.db.transaction() as session:
            jobs.record_epoch(session, self.work.lease, epoch, metrics)
        self._moves += 1

    def fail(self, index: int, title: str, detail: str) -> None:
        """This item cannot be computed. Raises LeaseLost."""
        with self.runtime.db.transaction() as session:
            jobs.fail_item(session, self.work.lease, index, title, detail)
        self._moves += 1

    def _beat(self) -> None:
        settings, sent, began = self.runtime.settings, 0, time.monotonic()
        while not self._over.wait(settings.heartbeat_seconds):
            loading = self._began is None and time.monotonic() - began < settings.loading_seconds
            if self._moves == sent and not loading:
                continue  # a device that hangs must lose its lease
            sent = self._moves
            try:
                self._send()
            except LeaseLost:
                log.warning("lease lost")
                self._stop.set()
                return
            except Exception as e:  # the lease depends on this thread, so nothing else may end it
                log.warning("heartbeat not sent", reason=repr(e))

    def _send(self) -> None:
        elapsed = time.monotonic() - self._began if self._began else 0
        rate = (self._image_steps - self._resumed) / elapsed if elapsed else 0
        progress = {"image_steps": self._image_steps, "rate": rate, "curve": self._curve}
        with self.runtime.db.transaction() as session:
            lease_seconds = self.runtime.settings.lease_seconds
            if jobs.heartbeat(session, self.work.lease, lease_seconds, progress) is Directive.STOP:
                self._stop.set()
