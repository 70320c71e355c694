"""Entry of the worker: a Celery worker with a thread pool, or, embedded, the same in a thread of the API's process."""

import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import structlog
from celery import Celery, signals
from sqlalchemy.exc import SQLAlchemyError

from service import leases, logs, tracing
from service.api.context import Context
from service.app import open_context
from service.broker import QUEUES, TASK, celery_app
from service.leases import LeaseLost
from service.settings import get_settings
from workers.announcing import Announcer
from workers.probes import Consuming, Probes

log = structlog.get_logger()
DEVICE_LOST = 70
"""The status of a process that ends because its device hangs, or answers no more."""

OPTIONS = ("--pool=threads", "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING")
"""Of every Celery worker."""

LAST_SECONDS = 2.0
"""For the release of what is still held when the time to let go is over."""

if TYPE_CHECKING:
    from workers.runtime import Runtime


def make_runtime(context: Context) -> "Runtime":
    """Loads torch; importing this module does not."""
    from workers.runtime import ModelStore, Runtime, make_batcher, pick_device

    device = pick_device(context.settings.device)
    store = ModelStore(context.catalog, device, context.storage, context.settings.compile)
    batcher = make_batcher(context.settings, device)
    batcher.start()
    return Runtime(context.settings, context.db, context.storage, context.broker, context.catalog, store, batcher)


def register(app: Celery, runtime: "Runtime") -> None:
    """Bind the task's name to the code that computes."""
    from workers.tasks import run_shard

    app.set_default()  # where Celery's pool threads look a task up

    @app.task(name=TASK, ignore_result=True, shared=False, bind=True)
    def _run_shard(task: Any, shard_id: str) -> None:
        run_shard(runtime, shard_id, task.request.delivery_info.get("routing_key", ""))


def watch(runtime: "Runtime") -> None:
    """End the process if the device hangs: no thread can be freed of it, and the leases run out by themselves."""
    seconds = runtime.settings.loading_seconds

    def look() -> None:
        while runtime.batcher.turns.silent() < seconds:
            if runtime.batcher.ended:
                return
            time.sleep(min(seconds / 4, 1.0))
        log.critical("the device hangs; this process ends, start it again", seconds=seconds)
        os._exit(DEVICE_LOST)

    threading.Thread(target=look, name="watchdog", daemon=True).start()


def let_go(runtime: "Runtime") -> None:
    """Release the shards that are still held, as they were last checkpointed: nobody waits for this process longer."""
    for shard_id, lease in list(runtime.held.items()):
        log.warning("not let go in time; released", shard=shard_id)
        with suppress(LeaseLost, SQLAlchemyError), runtime.db.transaction() as session:
            leases.finish(session, lease)


def drain(runtime: "Runtime", announcer: Announcer | None = None) -> None:
    """Admit nothing more, keep checkpoints and let go; this process ends soon after `drain_seconds` in any case."""
    status = DEVICE_LOST if runtime.batcher.ended else 0

    def late() -> None:
        let_go(runtime)
        if announcer:
            announcer.close()
        leave(status)

    runtime.draining.set()
    for after, end in ((0.0, late), (LAST_SECONDS, lambda: leave(status))):  # a database may keep the first for ever
        timer = threading.Timer(runtime.settings.drain_seconds + after, end)
        timer.daemon = True
        timer.start()


class EmbeddedWorker:
    """A worker inside the API's process."""

    def __init__(self, context: Context) -> None:
        self.runtime = make_runtime(context)
        watch(self.runtime)
        register(context.broker.app, self.runtime)
        self._worker: Any = context.broker.app.WorkController(
            pool_cls="threads", concurrency=context.settings.worker_threads, queues=list(QUEUES.values()),
            without_gossip=True, without_mingle=True, without_heartbeat=True, loglevel="WARNING",
        )  # fmt: skip
        self._thread = threading.Thread(target=self._worker.start, name="worker", daemon=True)
        self._announcer = Announcer(self.runtime)
        self._probes = Probes(self.runtime, self._thread.is_alive, context.settings.metrics_port)

    def start(self) -> None:
        self._thread.start()
        self._announcer.start()

    def close(self) -> None:
        """Admit nothing more, keep checkpoints and let go."""
        self.runtime.draining.set()
        stopping = threading.Thread(target=self._worker.stop, name="stopping", daemon=True)  # it waits for every task
        stopping.start()
        stopping.join(self.runtime.settings.drain_seconds)
        self._thread.join(LAST_SECONDS)
        self.runtime.ended.set()
        let_go(self.runtime)
        self._announcer.close()
        self._probes.close()
        self.runtime.batcher.close()


def _leave_it(**_: Any) -> None:
    """Celery would raise the root logger's level, to its own --loglevel."""


def worker() -> None:
    """Compute what the queue holds, until SIGTERM; then let go of everything and exit."""
    settings = get_settings()
    logs.start(settings, service="worker", worker=f"{socket.gethostname()}:{os.getpid()}")
    if settings.embedded:
        raise SystemExit(
            "broker_url is memory://, whose worker is `robustreps serve` itself; set ROBUSTREPS_BROKER_URL"
        )
    from workers.runtime import give_way

    give_way(settings)
    tracing.configure(settings, "worker")
    context = open_context(settings)
    runtime = make_runtime(context)
    watch(runtime)
    app = celery_app(settings)
    register(app, runtime)

    # Whoever starts the worker again gets a new device; the leases bring the shards back.
    runtime.batcher.on_broken = end = lambda: os.kill(os.getpid(), signal.SIGTERM)
    announcer, consuming = Announcer(runtime, end), Consuming()
    probes = Probes(runtime, consuming, settings.metrics_port)
    signals.setup_logging.connect(_leave_it, weak=False)
    signals.worker_ready.connect(lambda sender, **_: consuming.ready(sender), weak=False)
    signals.worker_ready.connect(lambda **_: announcer.start(), weak=False)
    signals.worker_shutting_down.connect(lambda **_: drain(runtime, announcer), weak=False)
    queues = ",".join(QUEUES.values())
    app.worker_main(["--quiet", "worker", f"--concurrency={settings.worker_threads}", f"--queues={queues}", *OPTIONS])
    status = DEVICE_LOST if runtime.batcher.ended else 0
    runtime.batcher.close()
    announcer.close()
    probes.close()
    log.info("worker ends", **asdict(runtime.batcher.stats))
    context.broker.close()
    context.db.close()
    leave(status)


def leave(status: int = 0) -> None:
    """End this process at once: taking torch apart in order may last longer than a drain."""
    tracing.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
