"""What a message does: claim the shard it names, compute it, let go of it."""

from collections.abc import Callable

import structlog
import torch
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import jobs, leases, tracing
from service.broker import QUEUES
from service.leases import Lease, LeaseLost, Work
from service.models import Job, Shard
from service.states import ShardState
from workers import alone
from workers.context import ShardContext
from workers.engine.rows import DeviceError
from workers.observing import claimed, phase
from workers.patience import is_away, is_disk
from workers.recipes.registry import RECIPES
from workers.runtime import Hopeless, Runtime

log = structlog.get_logger()


def run_shard(runtime: Runtime, shard_id: str, queue: str = "") -> None:
    """Do nothing if there is nothing to claim: a message may come twice, or late.

    `queue` is the one that it came by. If its job is less urgent by now, it is sent on to where it belongs.
    """
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(shard=shard_id)
    try:
        _take(runtime, shard_id, queue)
    except Exception as e:
        if not is_away(e):
            raise
        log.error("left: a server is away; a lease that is held runs out", reason=str(e))


def _take(runtime: Runtime, shard_id: str, queue: str) -> None:
    with runtime.db.reading() as session:
        queued = (Shard.id == shard_id) & (Shard.state == ShardState.QUEUED)  # else there is no process to start
        asked = select(Job.kind, Shard.crashes, Job.priority).join(Shard).where(queued)
        found = session.execute(asked).one_or_none()
    hangs = runtime.batcher.turns.silent() > runtime.settings.lease_seconds
    if found is None or hangs or runtime.draining.is_set():
        log.info("nothing to claim, or not by this process")
        return
    kind, crashes, priority = found
    if any(name == queue and priority < urgent for urgent, name in QUEUES.items()):
        log.info("sent on: its job is less urgent by now")
        runtime.broker.enqueue([shard_id], priority)
        return
    suspect = crashes >= runtime.settings.max_crashes - 1 and not runtime.alone
    run = _run_alone if suspect else _run
    if kind != "training":
        run(runtime, shard_id)
    elif runtime.training.acquire(blocking=False):
        try:
            run(runtime, shard_id)
        finally:
            runtime.training.release()
    else:  # the reconciler offers it again, to whoever is free then
        log.info("left: this process is training")


def _run_alone(runtime: Runtime, shard_id: str) -> None:
    alone.run(runtime, shard_id)
    send(runtime, shard_id)


def _run(runtime: Runtime, shard_id: str) -> None:
    settings, since = runtime.settings, tracing.now()
    work = runtime.written(lambda session: leases.claim(session, shard_id, runtime.worker, settings.lease_seconds))
    if work is None:
        log.info("nothing to claim")
        return
    lease = work.lease
    structlog.contextvars.bind_contextvars(job=lease.job_id, epoch=lease.epoch)
    about = {"job": lease.job_id, "shard": shard_id, "epoch": lease.epoch, "items": len(work.items)}
    with tracing.span("shard", work.trace, kind=work.kind, worker=runtime.worker, **about):
        claimed(work, since)
        _hold(runtime, work)
    send(runtime, shard_id)


def _hold(runtime: Runtime, work: Work) -> None:
    """Compute what was claimed, and let go of it."""
    shard_id = work.lease.shard_id
    log.info("claimed", items=len(work.items))
    runtime.held[shard_id] = work.lease
    send(runtime, shard_id)
    try:
        log.info("released", state=compute(runtime, work))
    except LeaseLost as e:
        log.warning("let go of a lost lease", reason=str(e))
    finally:
        runtime.held.pop(shard_id, None)


def send(runtime: Runtime, shard_id: str) -> None:
    """Messages for what the claim or the end of a shard lets begin."""
    if runtime.alone:
        return
    job_id = shard_id.rpartition(".")[0]
    waiting, priority = runtime.written(lambda session: (jobs.to_send(session, job_id), jobs.priority(session, job_id)))
    runtime.broker.enqueue(waiting, priority)


def compute(runtime: Runtime, work: Work) -> ShardState:
    """Run the recipe and end the attempt by what came of it. Raises LeaseLost, or what the database raises too long."""
    try:
        with ShardContext(runtime, work) as ctx:
            runtime.refreshed()
            with phase("compute"):
                RECIPES[work.kind](ctx)
    except LeaseLost:
        raise
    except Exception as e:  # the task boundary: whatever happened is the shard's error, and the worker lives on
        return runtime.written(ending(runtime, work.lease, e))
    return runtime.written(lambda session: leases.finish(session, work.lease))


def ending(runtime: Runtime, lease: Lease, error: Exception) -> Callable[[Session], ShardState]:
    """How an attempt ends by its error: was it the input's, the device's, a server's, or ours?"""
    settings, what = runtime.settings, str(error)
    if isinstance(error, Hopeless):
        return lambda session: leases.give_up(session, lease, "Cannot be computed", what)
    if isinstance(error, DeviceError | torch.AcceleratorError):
        if runtime.draining.is_set():
            return lambda session: leases.finish(session, lease)
        log.error("the device is lost", reason=what)
        runtime.batcher.lose(what)
        return lambda session: leases.crashed(
            session, lease, settings.max_crashes, f"the device was lost: {what}"[:500]
        )
    log.error("attempt failed", exc_info=error)
    counts, title = not (is_disk(error) or (is_away(error) and runtime.outage())), type(error).__name__
    return lambda session: leases.fail_attempt(
        session, lease, title, what, settings.max_attempts, settings.retry_seconds, counts
    )
