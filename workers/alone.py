"""A shard whose workers died: in a process of its own, so that nothing else dies with the next one.

python -m workers.alone SHARD_ID
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.orm import Session

from service import leases, logs, tracing
from service.leases import Lease, LeaseLost
from service.models import Shard
from service.settings import Settings, get_settings
from service.states import ShardState

if TYPE_CHECKING:
    from workers.runtime import Runtime

log = structlog.get_logger()
LOOK_SECONDS = 0.2
SOONER = 0.8
"""The share of the worker's time to let go that the process has: it must be gone before the worker is."""


def run(runtime: "Runtime", shard_id: str) -> None:
    """Start the process, stop it when this one shuts down, and count a crash if it dies with the shard."""
    settings = runtime.settings.model_copy(update={"drain_seconds": SOONER * runtime.settings.drain_seconds})
    inherited = {n: v for n, v in os.environ.items() if not n.startswith("ROBUSTREPS_")}
    environment = inherited | settings.environment(Settings.model_fields)
    log.warning("running alone: its workers died before")
    command = [sys.executable, "-m", "workers.alone", shard_id]
    process = subprocess.Popen(command, env=environment, start_new_session=True)  # a Ctrl-C is for this process
    asked = held = False
    looked = time.monotonic()
    while process.poll() is None:
        time.sleep(LOOK_SECONDS)
        if runtime.draining.is_set() and not asked:
            process.terminate()
            asked = True
        elif time.monotonic() - looked > settings.lease_seconds:
            before, held, looked = held, holds(runtime, shard_id, process.pid), time.monotonic()
            if before and not held:  # it hangs, and its lease has run out
                process.kill()
    if process.returncode and not asked:
        log.error("the process of a shard that runs alone died", status=process.returncode)
        runtime.written(lambda session: _count(session, runtime, shard_id, process.pid))


def holds(runtime: "Runtime", shard_id: str, pid: int) -> bool:
    """Whether the process with this number has the shard."""
    with runtime.db.reading() as session:
        return _is_of(session.get_one(Shard, shard_id), pid)


def _is_of(shard: Shard, pid: int) -> bool:
    return shard.state == ShardState.RUNNING and (shard.worker or "").startswith(f"{socket.gethostname()}:{pid}:")


def _count(session: Session, runtime: "Runtime", shard_id: str, pid: int) -> None:
    """The crash of the process with this number, if it held the shard."""
    shard = session.get_one(Shard, shard_id)
    if _is_of(shard, pid):
        try:
            lease = Lease(shard_id, shard.job_id, shard.epoch)
            leases.crashed(session, lease, runtime.settings.max_crashes, "its process died")
        except LeaseLost:
            log.info("counted already")


def main(shard_id: str) -> None:
    """Claim the shard, compute it, let go of it; as the worker does, but once."""
    from service.app import open_context
    from workers.main import drain, leave, make_runtime, watch
    from workers.runtime import give_way
    from workers.tasks import run_shard

    settings, parent = get_settings(), os.getppid()
    logs.start(settings, service="worker", worker=f"{socket.gethostname()}:{os.getpid()}")
    give_way(settings)
    tracing.configure(settings, "worker")
    context = open_context(settings)
    runtime = replace(make_runtime(context), alone=True)

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        drain(runtime)  # whatever ended the worker was not this shard

    signal.signal(signal.SIGTERM, lambda *_: drain(runtime))
    threading.Thread(target=follow, name="parent", daemon=True).start()
    watch(runtime)
    run_shard(runtime, shard_id)
    runtime.batcher.close()
    context.broker.close()
    context.db.close()
    leave()


if __name__ == "__main__":
    main(sys.argv[1])
