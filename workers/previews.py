"""What a shard's items look like while they are computed: stored now and then, and never in the way.

The pixels of some items are one object, which the next replaces; heartbeats tell of it, and `service.previews` reads
both. They are stored by a thread of their own, and no result depends on them: one that fails is not shown. What a
killed worker leaves is collected as all is that was written under its epoch.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from contextlib import suppress
from typing import Any

import structlog

from service.keys import previews_key
from service.leases import Lease
from service.storage import Storage, StorageError
from workers.engine.glances import Glance

log = structlog.get_logger()
Value = Callable[[int, int], float]
"""Of what curves show, by a row and its step."""
MOST = 32
"""Items that are shown of a shard: the first that run."""
SHARE = 0.004
"""Of a worker's time, the most that previews take of one processor: where they take long, they come less often."""


def chosen(rows: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Of rows, each with the item that it is of: the first of each item, of at most MOST items; items by row."""
    of_item: dict[int, int] = {}
    for row, item in rows:
        if len(of_item) < MOST:
            of_item.setdefault(item, row)
    return {row: item for item, row in of_item.items()}


class Previews:
    """Those of one claim of a shard, at least `seconds` apart, or none if that is 0; `tell` is called after each.

    `held` are the shards that the worker has, which share what previews may take.
    """

    def __init__(self, storage: Storage, lease: Lease, seconds: float, held: Sized, tell: Callable[[], object]) -> None:
        self._storage, self._lease, self._seconds, self._held, self._tell = storage, lease, seconds, held, tell
        self._next = time.monotonic() + seconds if seconds else math.inf
        self._lock, self._closed, self._number = threading.Lock(), False, 0
        self._keys: list[str] = []
        self._newest: tuple[float, dict[str, Any]] | None = None

    def due(self) -> bool:
        """Whether it is time for one. Whoever is told so takes it, and nobody else is told before it is stored."""
        if time.monotonic() < self._next:
            return False
        self._next = math.inf
        return True

    def take(self, glances: Sequence[Glance], items: Mapping[int, int], value: Value) -> None:
        """Have these stored, whose rows are of these items, and then told of; the caller's thread does none of it."""
        store = (time.monotonic(), glances, items, value)
        try:
            threading.Thread(
                target=self._store, args=store, name=f"previews {self._lease.shard_id}", daemon=True
            ).start()
        except RuntimeError:  # too many threads: there is no preview this time
            self._next = time.monotonic() + self._seconds

    def told(self) -> dict[str, Any] | None:
        """What a heartbeat says of the newest: claim, number, age in seconds, side; step and value of each item."""
        newest = self._newest
        return newest and {**newest[1], "age": time.monotonic() - newest[0]}

    def close(self, paused: bool) -> None:
        """The shard is let go of: nothing is shown of it any more, or where its job is paused, only the newest."""
        with self._lock:
            kept = 1 if paused and self._newest else 0
            left, self._keys, self._closed = self._keys[: len(self._keys) - kept], [], True
            self._newest = self._newest if kept else None
        if left:
            threading.Thread(target=self._delete, args=(left,), daemon=True).start()

    def _store(self, at: float, glances: Sequence[Glance], items: Mapping[int, int], value: Value) -> None:
        began = time.thread_time()
        try:
            if glances:
                self._put(at, glances, items, value)
        except Exception as e:  # whatever it is, there will be others
            log.info("a preview was not stored", reason=repr(e))
        spent = time.thread_time() - began + sum(glance.seconds for glance in glances)
        self._next = time.monotonic() + max(self._seconds, spent * len(self._held) / SHARE)

    def _put(self, at: float, glances: Sequence[Glance], items: Mapping[int, int], value: Value) -> None:
        number, self._number = self._number, self._number + 1
        key = previews_key(self._lease.job_id, self._lease.shard_id, self._lease.epoch, number)
        self._storage.put(key, b"".join(glance.data() for glance in glances), "application/octet-stream")
        rows = [pair for glance in glances for pair in zip(glance.numbers, glance.steps, strict=True)]
        steps = [[items[n], step, found if math.isfinite(found := value(n, step)) else None] for n, step in rows]
        with self._lock:
            self._keys.append(key)
            kept = [] if self._closed else self._keys[-2:]  # the one before may still be asked for
            over, self._keys = [each for each in self._keys if each not in kept], kept
            if kept:
                side = glances[0].pixels.shape[1]
                self._newest = at, {"epoch": self._lease.epoch, "number": number, "side": side, "items": steps}
        self._delete(over)
        self._tell()

    def _delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with suppress(StorageError):  # an orphan, which is collected later
                self._storage.delete(key)
