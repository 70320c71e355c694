"""Following a run in another process: its events to the database, its checkpoints to the storage."""

import json
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from service.joblog import LONGEST, Event
from service.models import Item
from service.storage import StorageError
from workers.context import ShardContext

log = structlog.get_logger()
POLL_SECONDS = 0.2
STOP_SECONDS = 45
"""How long a run may take to write its checkpoint once it is asked to stop; torchrun gives its processes 30."""
LEAVE_SECONDS = 10
"""How long processes may go on after the event that ends the run."""
ENDS = ("done", "diverged", "failed", "stopped")


def lives(process: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Keeper:
    """Stores a run's newest checkpoint, one at a time, in a thread of its own: training does not wait for it.

    One that cannot be stored is given up for the next: losing it costs work only if the worker dies before that.
    """

    def __init__(self, ctx: ShardContext, item: Item, folder: Path) -> None:
        self.ctx, self.item, self.folder = ctx, item, folder
        self.pool, self.offered = ThreadPoolExecutor(1, "keeper"), 0
        self.running: Future[None] | None = None
        self.newest: tuple[Path, int] | None = None

    def offer(self, step: int) -> None:
        """The checkpoint that is there now; the process replaces it, but never writes into it."""
        self.offered += 1
        kept = self.folder / f"checkpoint-{self.offered}.pt"
        os.link(self.folder / "checkpoint.pt", kept)
        if self.newest:
            self.newest[0].unlink()
        self.newest = kept, step

    def busy(self) -> bool:
        """Whether something is being stored; begins with what was offered. Raises LeaseLost."""
        if self.running and not self.running.done():
            return True
        ended, self.running = self.running, None
        try:
            if ended:
                ended.result()
        except (StorageError, SQLAlchemyError) as e:
            log.warning("a checkpoint was not kept; the next will be", reason=str(e))
            self.ctx.note(Event.CHECKPOINT_LOST, why=f"it was not kept: {e}"[:LONGEST])
        if self.newest is None:
            return False
        (path, step), self.newest = self.newest, None
        self.running = self.pool.submit(self._store, path, step)
        return True

    def _store(self, path: Path, step: int) -> None:
        self.ctx.checkpoint(self.item.index, path, step)
        path.unlink()


class Follower:
    """Reads a run's events as they come, and passes them on."""

    def __init__(self, ctx: ShardContext, item: Item, folder: Path, process: "subprocess.Popen[bytes]") -> None:
        self.ctx, self.folder, self.process = ctx, folder, process
        self.keeper, self.read = Keeper(ctx, item, folder), 0
        self.epochs: deque[dict[str, Any]] = deque()

    def follow(self) -> dict[str, Any]:
        """The last event, once the run is over and its last checkpoint stored. Raises LeaseLost."""
        asked, over, last = None, None, dict[str, Any]()
        with self.keeper.pool:
            while not self._ended() and (over is None or time.monotonic() - over < LEAVE_SECONDS):
                last = self._pass_on(last)
                over = over or (time.monotonic() if last.get("event") in ENDS else None)
                if self.ctx.should_stop() and asked is None:
                    asked = time.monotonic()
                    os.killpg(self.process.pid, signal.SIGTERM)
                elif asked is not None and time.monotonic() - asked > STOP_SECONDS:
                    os.killpg(self.process.pid, signal.SIGKILL)
            last = self._pass_on(last)
            while self.keeper.busy():
                time.sleep(POLL_SECONDS)
        return last

    def _ended(self) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(POLL_SECONDS)
        return self.process.returncode is not None

    def _pass_on(self, last: dict[str, Any]) -> dict[str, Any]:
        """Take in what is new; answers the last event."""
        for last in self._events():
            match last["event"]:
                case "progress":
                    self.ctx.report(last["step"], last["step"], last["loss"])
                case "epoch":
                    self.epochs.append(last)
                case "checkpoint":
                    self.keeper.offer(last["step"])
                case _:
                    self.ctx.alive()
        self._record()
        self.keeper.busy()
        return last

    def _events(self) -> Iterator[dict[str, Any]]:
        """Those that are whole and were not read before."""
        path = self.folder / "events.jsonl"
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self.read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.read += len(line)
                yield json.loads(line)

    def _record(self) -> None:
        """Epochs to the database; what it does not take now waits for the next look."""
        try:
            while self.epochs:
                self.ctx.epoch(self.epochs[0]["epoch"], self.epochs[0]["metrics"])
                self.epochs.popleft()
        except SQLAlchemyError as e:
            log.warning("an epoch was not recorded yet", reason=str(e))
