"""Every process that the service consists of, each of which can be killed, frozen or restarted.

Servers are started by the thread that makes the world, since they end with it; so it injects all faults as well.
"""

import os
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from deploy import servers
from service.client import ApiError, Client
from service.db import Database, migrate
from service.models import Shard
from service.settings import Settings
from service.states import ShardState
from service.storage import S3Storage
from tests.chaos.processes import DRAIN_SECONDS, MARGIN, ROBUSTREPS, Part, Server, clock_library, running
from tests.chaos.proxy import Proxy
from tests.chaos.violations import Violation
from tests.fixtures import s3_settings
from tests.servers import Bucket

HURRIED: dict[str, Any] = {
    "lease_seconds": 4, "heartbeat_seconds": 0.5, "reconcile_seconds": 1, "checkpoint_seconds": 1.5,
    "auth": "off", "drain_seconds": DRAIN_SECONDS, "retry_seconds": 0.5, "loading_seconds": 30, "shard_items": 6,
    "batch_rows": 16, "deterministic_rows": 4, "worker_threads": 3, "log_format": "json",
    # Whoever kills at random must not put the blame on an item.
    "max_crashes": 1000, "max_attempts": 1000,
}  # fmt: skip


def hurried(values: Mapping[str, Any]) -> dict[str, str]:
    """The environment of a process with these settings beside the hurried ones."""
    named = {f"ROBUSTREPS_{name.upper()}": str(value) for name, value in (HURRIED | dict(values)).items()}
    return os.environ | named | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}


class World:
    """The service and its servers. `broken` holds what was seen to go wrong so far."""

    def __init__(self, folder: Path, bucket: Bucket, workers: int, seed: int, exits: ExitStack) -> None:
        self.folder = folder
        self.broken: list[Violation] = []
        self._later: list[threading.Timer] = []
        self.proxy = exits.enter_context(Proxy(bucket.endpoint.url, seed))
        self.postgres = Server(servers.postgres, folder / "postgres")
        exits.callback(self.postgres.close)
        self.redis = Server(servers.redis, folder / "redis")
        exits.callback(self.redis.close)
        migrate(self.postgres.url)
        self.db = Database(self.postgres.url)
        exits.callback(self.db.close)
        self.storage = S3Storage(bucket.name, Settings(**s3_settings(bucket)))
        exits.callback(self.storage.client.close)
        self.url = f"http://127.0.0.1:{servers.usable_port()}"
        environment = hurried(
            s3_settings(bucket) | {
                "s3_endpoint": self.proxy.url, "database_url": self.postgres.url, "broker_url": self.redis.url,
                "port": int(self.url.rpartition(":")[2]), "data_dir": folder / "data",
            }
        )  # fmt: skip
        self.api = Part("api", [ROBUSTREPS, "serve"], environment, folder)
        exits.callback(self.api.end)
        library = clock_library(folder)
        self.workers = []
        for name in (f"worker-{n}" for n in range(workers)):
            (folder / f"{name}.clock").write_bytes(struct.pack("q", 0))
            clock = {"LD_PRELOAD": str(library), "CLOCK_SKEW_FILE": str(folder / f"{name}.clock")}
            self.workers.append(Part(name, [ROBUSTREPS, "worker"], environment | clock, folder))
            exits.callback(self.workers[-1].end)

    def set_clock(self, worker: int, seconds: int) -> None:
        """Let a worker's wall clock be wrong by so many seconds from now on."""
        with (self.folder / f"worker-{worker}.clock").open("r+b") as f:
            f.write(struct.pack("q", seconds))

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Call this in so many seconds, whatever this thread waits for by then."""
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        timer.start()
        self._later.append(timer)

    def tend(self) -> None:
        """Start again what has ended."""
        self.broken += filter(None, (part.tend() for part in (self.api, *self.workers)))

    def live(self, seconds: float) -> None:
        """Tend the world for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.tend()
            time.sleep(min(left, 0.1))

    def live_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Tend the world until the condition holds; False if it does not after so long."""
        end = time.monotonic() + seconds
        while not (holds := condition()) and time.monotonic() < end:
            self.live(0.1)
        return holds

    def calm(self) -> None:
        """End every fault that is going on, and wait until everything answers. Raises TimeoutError."""
        for timer in self._later:
            timer.cancel()
            timer.function()
        self.proxy.behave()
        for worker in range(len(self.workers)):
            self.set_clock(worker, 0)
        self.wait_ready()

    def wait_ready(self, seconds: float = 240) -> None:
        """Until the API reaches the database, the broker and the storage. Raises TimeoutError."""
        with Client(self.url, timeout=5) as client:
            if not self.live_until(lambda: ready(client), seconds):
                raise TimeoutError(f"the API is not ready: {self.api.log}")

    def rest(self) -> None:
        """End all workers in order: nothing is written any more. What they leave behind is a violation."""
        for part in self.workers:
            part.drain()
        for part in self.workers:
            try:
                part.process.wait(DRAIN_SECONDS + MARGIN)
            except subprocess.TimeoutExpired:
                self.broken.append(part.hangs())
        self.broken += (Violation("no process outlives its worker", left) for left in running(self.folder))

    def disconnect(self) -> None:
        """End every connection to the database but the one that asks for it."""
        text = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = "
        with suppress(OperationalError), self.db.transaction() as session:
            session.connection().exec_driver_sql(text + "current_database()")


def computes(db: Database, part: Part) -> bool:
    """Whether a worker has reported steps of a shard that it holds, as far as the database can tell."""
    mine = Shard.worker.startswith(part.holder, autoescape=True)
    with suppress(DBAPIError, PoolTimeout), db.reading() as session:
        held = session.scalars(select(Shard.progress).where(Shard.state == ShardState.RUNNING, mine))
        return any(progress.get("image_steps") for progress in held)
    return False


def ready(client: Client) -> bool:
    try:
        return client.request("GET", "/readyz").status_code == 200
    except (httpx2.TransportError, ApiError):
        return False


@contextmanager
def living(folder: Path, bucket: Bucket, workers: int, seed: int) -> Iterator[World]:
    """A world that is ready; nothing of it outlives the block."""
    with ExitStack() as exits:
        folder.mkdir(parents=True, exist_ok=True)
        world = World(folder, bucket, workers, seed, exits)
        world.wait_ready()
        yield world
