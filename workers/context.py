"""What a recipe may do with its shard: report progress, ask whether to stop, save items, fail an item."""

import hashlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service import joblog, leases
from service.joblog import LONGEST, Event
from service.keys import checkpoint_key, result_shard_key, shard_checkpoint_key
from service.leases import Directive, LeaseLost, Work
from service.registry import Also
from service.storage import ObjectNotFound, StorageError, Stored, artifact_key
from workers.engine.turns import Turns
from workers.observing import phase
from workers.patience import patiently
from workers.previews import Previews
from workers.runtime import Runtime
from workers.tars import MOST_BYTES, Computed, Tar

log = structlog.get_logger()
CURVE_POINTS = 60
STORAGE_SECONDS = 120.0
"""How long a storage that is away is tried; then the attempt fails, and work since the last checkpoint is lost."""


class ShardContext:
    """Holds the lease while a recipe computes. A thread of its own sends heartbeats, but only while work moves on."""

    def __init__(self, runtime: Runtime, work: Work) -> None:
        self.runtime, self.work = runtime, work
        self._moves = self._image_steps = self._resumed = 0
        self._began: float | None = None
        self._curve: list[tuple[int, float]] = []
        self._stop, self._release, self._over = threading.Event(), threading.Event(), threading.Event()
        self._storing: set[int] = set()
        self._news = threading.Event()
        seconds = runtime.settings.preview_seconds
        self.previews = Previews(runtime.storage, work.lease, seconds, runtime.held, self._tell)
        self._keeps, self._tars = itertools.count(), itertools.count()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat {work.lease.shard_id}", daemon=True)

    def __enter__(self) -> "ShardContext":
        self._thread.start()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.previews.close(paused=self._release.is_set() and not self._stop.is_set())
        self._over.set()
        self._tell()
        self._thread.join()
        if error[0] is None and not self._stop.is_set():
            with suppress(LeaseLost, SQLAlchemyError):  # the whole curve; whoever finishes the shard meets the error
                self._send()

    def report(self, step: int, image_steps: int, value: float | None = None) -> None:
        """The claim's items have come to `image_steps` in all; their curve is at `value` after `step` of each.

        What is over before its last step counts as if it had made all.
        """
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

    def _tell(self) -> None:
        """Have a heartbeat sent at once."""
        self._moves += 1
        self._news.set()

    def should_stop(self) -> bool:
        """Whether to let go: the job is cancelled, late or paused, this process shuts down, or the lease is lost."""
        return self._stop.is_set() or self.should_keep()

    def should_keep(self) -> bool:
        """Whether to let go, but to keep a checkpoint before."""
        return not self._stop.is_set() and (self._release.is_set() or self.runtime.draining.is_set())

    def save(
        self,
        index: int,
        metrics: Mapping[str, Any],
        provenance: Mapping[str, Any],
        files: Mapping[str, tuple[bytes | Path | Stored, str]],
        also: Sequence[Also] = (),
    ) -> None:
        """Store an item's files (with media types, by name) as objects, then commit the rows that point to them.

        A file is bytes, a path, or what `put` has stored already. `also` is written in the same transaction. Raises
        LeaseLost, StorageError, or what `also` raises.
        """
        lease = self.work.lease
        stored: dict[str, tuple[Stored, str]] = {}

        def write(session: Session) -> None:
            if leases.save_item(session, lease, index, metrics, provenance, stored):
                for other in also:
                    other(session)

        with phase("save"):
            for name, (data, media_type) in files.items():
                if not isinstance(data, Stored):
                    data = self.put(artifact_key(lease.job_id, index, lease.epoch, name), data, media_type)
                stored[name] = (data, media_type)
            self._written(write)

    def save_all(self, computed: Iterable[Computed]) -> None:
        """Store what ended together as one tar, or several if it is large, each committed as a whole.

        Raises LeaseLost or StorageError.
        """
        tar = self._tar()
        for each in computed:
            if tar.results and len(tar) + each.size > MOST_BYTES:
                self._save_tar(tar)
                tar = self._tar()
            tar.add(each)
            self._moves += 1
        if tar.results:
            self._save_tar(tar)

    def _tar(self) -> Tar:
        lease = self.work.lease
        return Tar(result_shard_key(lease.job_id, lease.shard_id, lease.epoch, next(self._tars)))

    def _save_tar(self, tar: Tar) -> None:
        with phase("save"):
            stored = self.put(tar.key, tar.closed(), "application/x-tar")
            self._written(lambda session: leases.save_items(session, self.work.lease, tar.results, stored))

    def put(self, key: str, data: bytes | Path, media_type: str = "application/octet-stream") -> Stored:
        """Store an object; the row that points to it comes later. Raises StorageError."""
        storage = self.runtime.storage
        put: Callable[[], Stored] = (
            (lambda: storage.put_file(key, data, media_type)) if isinstance(data, Path)
            else (lambda: storage.put(key, data, media_type))
        )  # fmt: skip
        with self._at_the_storage(), phase("upload"):
            stored = patiently(put, STORAGE_SECONDS, lambda: self._stop.is_set() or self.runtime.ended.is_set())
        self._moves += 1
        return stored

    @contextmanager
    def _at_the_storage(self) -> Iterator[None]:
        """Storages time out by themselves, if not before a lease would: heartbeats go on meanwhile."""
        me = threading.get_ident()
        self._storing.add(me)
        try:
            yield
        finally:
            self._storing.discard(me)

    def _written(self, write: Callable[[Session], Any]) -> Any:
        """What `write` answers, committed. Raises LeaseLost, or what the database raises for too long."""
        answer = self.runtime.written(write)
        self._moves += 1
        return answer

    def keep(self, data: bytes) -> None:
        """Keep this as where a later claim goes on; or not, if the storage is away.

        Raises LeaseLost.
        """
        lease = self.work.lease
        try:
            stored = self.put(shard_checkpoint_key(lease.job_id, lease.shard_id, lease.epoch, next(self._keeps)), data)
        except StorageError as e:
            log.warning("a checkpoint was not kept; the next will be", reason=str(e))
            self.note(Event.CHECKPOINT_LOST, why=f"it was not kept: {e}"[:LONGEST])
            return
        self._forget(self._written(lambda session: leases.save_checkpoint(session, lease, stored)))

    def kept(self) -> bytes | None:
        """What an earlier claim kept, if it is there and whole. Raises StorageError."""
        if (checkpoint := self.work.checkpoint) is None:
            return None
        try:
            with self._at_the_storage():
                data = self.runtime.storage.get(checkpoint["key"])
        except ObjectNotFound:
            data = b""
        if hashlib.sha256(data).hexdigest() == checkpoint["sha256"]:
            return data
        log.error("a checkpoint is not what was stored; beginning anew", key=checkpoint["key"])
        self.note(Event.CHECKPOINT_LOST, why="it is not what was stored")
        return None

    def checkpoint(self, index: int, path: Path, step: int) -> None:
        """Keep the file at `path` as where a later claim goes on with an item. Raises LeaseLost or StorageError."""
        lease = self.work.lease
        stored = self.put(checkpoint_key(lease.job_id, index, lease.epoch, step), path)
        self._forget(self._written(lambda session: leases.save_item_checkpoint(session, lease, index, stored, step)))

    def _forget(self, key: str | None) -> None:
        if key is not None:
            with suppress(StorageError):  # an orphan, which is collected later
                self.runtime.storage.delete(key)

    def epoch(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        """What training measured after an epoch, counted from 1. Raises LeaseLost."""
        self._written(lambda session: leases.record_epoch(session, self.work.lease, epoch, metrics))

    def fail(self, index: int, title: str, detail: str) -> None:
        """This item cannot be computed. Raises LeaseLost."""
        log.warning("item failed", item=index, title=title, reason=detail)
        self._written(lambda session: leases.fail_item(session, self.work.lease, index, title, detail))

    def note(self, event: Event, **detail: Any) -> None:
        """Add a line to the job's log; what the database does not take is not told."""
        with suppress(SQLAlchemyError), self.runtime.db.transaction() as session:
            joblog.note(session, self.work.lease, event, **detail)

    def _beat(self) -> None:
        settings, sent = self.runtime.settings, 0
        began = moved = time.monotonic()
        while not self._ended(settings.heartbeat_seconds):
            at = time.monotonic()
            loading = self._began is None and at - began < settings.loading_seconds
            if self._moves == sent and not loading and not self._storing:
                if at - moved > settings.lease_seconds:  # a device that hangs loses its lease
                    log.error("lease given up: nothing moves on")
                    self._stop.set()
                    self.note(Event.STALLED, seconds=round(at - moved))
                    return
                continue
            sent, moved = self._moves, at
            try:
                self._send()
            except LeaseLost:
                log.warning("lease lost")
                self._stop.set()
                return
            except Exception as e:  # the lease depends on this thread, so nothing else may end it
                log.warning("heartbeat not sent", reason=repr(e))

    def _ended(self, seconds: float) -> bool:
        """Whether the shard is over; after so many seconds, or sooner if there is something to tell."""
        self._news.wait(seconds)
        self._news.clear()
        return self._over.is_set()

    def _send(self) -> None:
        elapsed = time.monotonic() - self._began if self._began else 0
        rate = (self._image_steps - self._resumed) / elapsed if elapsed else 0
        progress: dict[str, Any] = dict(self.work.progress)  # until there is more to report
        if self._began:
            progress = {"image_steps": self.work.done + self._image_steps, "rate": rate, "curve": self._curve}
        if told := self.previews.told():
            progress["previews"] = told
        with self.runtime.db.transaction() as session:
            directive = leases.heartbeat(session, self.work.lease, self.runtime.settings.lease_seconds, progress)
        if directive is Directive.STOP:
            self._stop.set()
        elif directive is Directive.RELEASE:
            self._release.set()
