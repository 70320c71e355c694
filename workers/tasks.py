"""What a message does: claim the shard it names, compute it, let go of it."""

import structlog
from sqlalchemy import select

from service import jobs
from service.jobs import LeaseLost, Work
from service.models import Job, Shard
from service.states import ShardState
from workers.context import ShardContext
from workers.recipes.registry import RECIPES
from workers.runtime import Hopeless, Runtime

log = structlog.get_logger()
MAX_ATTEMPTS = 3


def run_shard(runtime: Runtime, shard_id: str) -> None:
    """Do nothing if there is nothing to claim: a message may come twice, or late."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(shard=shard_id)
    with runtime.db.reading() as session:
        trains = session.scalar(select(Job.kind).join(Shard).where(Shard.id == shard_id)) == "training"
    if not trains:
        _run(runtime, shard_id)
    elif runtime.training.acquire(blocking=False):
        try:
            _run(runtime, shard_id)
        finally:
            runtime.training.release()
    else:  # the reconciler offers it again, to whoever is free then
        log.info("left: this process is training")


def _run(runtime: Runtime, shard_id: str) -> None:
    with runtime.db.transaction() as session:
        work = jobs.claim(session, shard_id, runtime.worker, runtime.settings.lease_seconds)
    if work is None:
        log.info("nothing to claim")
        return
    structlog.contextvars.bind_contextvars(job=work.lease.job_id, epoch=work.lease.epoch)
    log.info("claimed", items=len(work.items))
    try:
        state = compute(runtime, work)
    except LeaseLost as e:
        log.warning("let go of a lost lease", reason=str(e))
        return
    log.info("released", state=state)
    with runtime.db.transaction() as session:
        released = jobs.to_send(session, work.lease.job_id)
    runtime.broker.enqueue(released)
    if state is ShardState.QUEUED and runtime.draining.is_set():
        runtime.broker.enqueue([shard_id])


def compute(runtime: Runtime, work: Work) -> ShardState:
    """Run the recipe and end the attempt by what came of it. Raises LeaseLost."""
    lease = work.lease
    if work.crashes >= runtime.settings.max_crashes:
        with runtime.db.transaction() as session:
            return jobs.give_up(session, lease, "Worker crashed", f"{work.crashes} workers died while computing this")
    try:
        with ShardContext(runtime, work) as ctx:
            runtime.refreshed()
            RECIPES[work.kind](ctx)
    except LeaseLost:
        raise
    except Hopeless as e:
        with runtime.db.transaction() as session:
            return jobs.give_up(session, lease, "Cannot be computed", str(e))
    except Exception as e:  # the task boundary: whatever happened is the shard's error, and the worker lives on
        log.exception("attempt failed")
        with runtime.db.transaction() as session:
            return jobs.fail_attempt(session, lease, type(e).__name__, str(e), MAX_ATTEMPTS)
    with runtime.db.transaction() as session:
        return jobs.finish(session, lease)
