"""A thread of a worker process that says it is alive, and what the device does, every few seconds."""

import os
import socket
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import structlog

from service import fleet

if TYPE_CHECKING:
    from workers.runtime import Runtime

log = structlog.get_logger()
JOIN_SECONDS = 2.0


class Announcer:
    """`start` it once the process takes work; `close` it when it takes no more."""

    def __init__(self, runtime: "Runtime", end: Callable[[], None] = lambda: None) -> None:
        """`end` is called once an operator wants the process to end."""
        self.runtime, self.name, self._end = runtime, f"{socket.gethostname()}:{os.getpid()}", end
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        self._at, self._before = time.monotonic(), (0, 0.0)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Say that it ends, if the database can be reached."""
        self._over.set()
        if self._thread.is_alive():  # what it is announcing must not come after the end
            self._thread.join(JOIN_SECONDS)
        try:
            with self.runtime.db.transaction() as session:
                fleet.end(session, self.name)
        except Exception as e:  # it is seen to be silent soon
            log.warning("the end was not announced", reason=repr(e))

    def _run(self) -> None:
        first, asked, told = True, False, False
        while not self._over.is_set():
            try:
                info = self._info()
                with self.runtime.db.transaction() as session:
                    if not self._over.is_set():
                        asked = fleet.announce(session, self.name, info, first)
                first = False
            except Exception as e:  # the database may be away; the next time may do better
                log.warning("not announced; trying again", reason=repr(e))
            if asked and not told:
                log.info("told to drain")
                told = True
                self._end()
            self._over.wait(fleet.ANNOUNCE_SECONDS)

    def _info(self) -> dict[str, Any]:
        batcher, at = self.runtime.batcher, time.monotonic()
        stats, lanes = batcher.stats, [place.lane for place in list(batcher.places.values())]
        counted = (stats.image_steps, stats.seconds)
        images, computed = (new - old for new, old in zip(counted, self._before, strict=True))
        seconds, self._at, self._before = max(at - self._at, 1e-3), at, counted
        return {
            "host": socket.gethostname(), "device": self.runtime.device_name, "version": version("robustreps"),
            "threads": self.runtime.settings.worker_threads, "image_steps_per_second": round(images / seconds, 1),
            "busy": round(min(computed / seconds, 1.0), 3),
            "batch_rows": sum(len(lane.searches) for lane in lanes),
            "batch_limit": sum(lane.capacity for lane in lanes if lane.searches) or batcher.most,
        }  # fmt: skip
