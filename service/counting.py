"""What is read when Prometheus asks: the queue as the database has it, and the text of all there is."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import ColumnElement, func, select, true
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service import fleet, metrics
from service.bulk_models import Delivery
from service.db import Database, among, kept, now
from service.jobs import CLAIMABLE
from service.models import Job, Shard, Transition
from service.states import TERMINAL_JOB, JobState, ShardState
from service.webhooks.registry import PENDING

log = structlog.get_logger()
OLD = 5.0
"""Seconds that numbers of the whole queue may be old: however many ask, the database is asked no more often."""
PAUSED = "paused"
OPEN = (ShardState.QUEUED, ShardState.RUNNING, ShardState.WAITING)
GOING = [state for state in JobState if state not in TERMINAL_JOB]

for _collector in (ProcessCollector, PlatformCollector, GCCollector):
    _collector(registry=metrics.REGISTRY)


class Queue(NamedTuple):
    """What is not over: shards and their items by state and priority, jobs by state; ages in seconds."""

    shards: Counter[tuple[str, int]]
    items: Counter[tuple[str, int]]
    jobs: Counter[str]
    oldest: dict[int, float]
    """Of each priority, how long the job has waited longest that a worker could take up, and none has any of."""
    unplanned: float
    workers: int
    threads: int
    deliveries: int
    overdue: float


def queue(session: Session) -> Queue:
    """As it is, or was a few seconds ago."""
    return kept(session, "counting", lambda: _read(session), lambda _: OLD)


def _read(session: Session) -> Queue:
    # Not joined, as in `waiting`: after a burst Postgres would compare each with each.
    going = select(Job.id, Job.state, Job.priority, now() - Job.created_at).where(Job.state.in_(GOING))
    jobs = {i: (state, priority, age) for i, state, priority, age in session.execute(going)}
    queued, running = set[str](), set[str]()
    of_jobs = select(Shard.job_id, Shard.state, func.count(), func.sum(Shard.item_count)).where(Shard.state.in_(OPEN))
    shards, items = Counter[tuple[str, int]](), Counter[tuple[str, int]]()
    for job_id, state, count, size in session.execute(of_jobs.group_by(Shard.job_id, Shard.state)):
        if job_id not in jobs:  # it ended in between
            continue
        of, priority, _ = jobs[job_id]
        if state == ShardState.QUEUED and of == JobState.PAUSED:
            state = PAUSED
        elif state == ShardState.QUEUED and of in CLAIMABLE:
            queued.add(job_id)
        elif state == ShardState.RUNNING:
            running.add(job_id)
        shards[state, priority] += count
        items[state, priority] += int(size)
    at = session.scalars(select(now())).one()
    oldest: dict[int, float] = defaultdict(float)
    for job_id, began in _waits_since(session, queued - running).items():
        oldest[jobs[job_id][1]] = max(oldest[jobs[job_id][1]], at - began)
    waits, since = session.execute(select(func.count(), func.min(Delivery.next_at)).where(PENDING)).one()
    ages = [age for state, _, age in jobs.values() if state == JobState.VALIDATING]
    return Queue(
        shards, items, Counter(state for state, _, _ in jobs.values()), oldest, max(ages, default=0.0),
        *fleet.threads(session), waits, max(at - since, 0.0) if since is not None else 0.0,
    )  # fmt: skip


def _waits_since(session: Session, ids: Collection[str]) -> dict[str, float]:
    """When these jobs began to wait: were queued, were let go of by a worker, or had the last of their parts end."""
    found: dict[str, float] = defaultdict(float)
    columns: tuple[tuple[Any, Any, ColumnElement[bool]], ...] = (
        (Transition.job_id, Transition.at, Transition.state == JobState.QUEUED),
        (Shard.job_id, Shard.heartbeat_at, true()),
        (Job.parent_id, Job.finished_at, true()),
    )
    for job_id, at, only in columns:
        latest = select(job_id, func.max(at)).where(among(job_id, ids), at.is_not(None), only).group_by(job_id)
        for i, last in session.execute(latest):
            found[i] = max(found[i], last)
    return found


class QueueCollector(Collector):
    """The queue as metrics. A database that cannot be reached is one of them."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("robustreps_database_up", "Whether the database answers")
        try:
            with self.db.reading() as session:
                found = queue(session)
        except SQLAlchemyError as e:
            log.warning("the queue cannot be counted", reason=str(e))
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from _families(found)


def _families(found: Queue) -> Iterator[Metric]:
    """Every state and priority is there, so that none that is 0 is missing."""
    states = (*OPEN, PAUSED)
    cells = [(state, n) for state in states for n in range(len(metrics.PRIORITIES))]
    for name, what, counts in (("shards", "Shards", found.shards), ("items", "Items of shards", found.items)):
        family = GaugeMetricFamily(f"robustreps_{name}", f"{what} that are not over", labels=["state", "priority"])
        for state, n in cells:
            family.add_metric([str(state), metrics.PRIORITIES[n]], counts[state, n])
        yield family
    jobs = GaugeMetricFamily("robustreps_jobs", "Jobs that are not over", labels=["state"])
    for state in GOING:
        jobs.add_metric([str(state)], found.jobs[state])
    yield jobs
    oldest = GaugeMetricFamily(
        "robustreps_queue_oldest_seconds",
        "How long the job has waited longest that no worker computes",
        labels=["priority"],
    )
    for n, name in enumerate(metrics.PRIORITIES):
        oldest.add_metric([name], found.oldest.get(n, 0.0))
    yield oldest
    for name, what, value in (
        ("planning_lag_seconds", "Age of the oldest job that is still to be planned", found.unplanned),
        ("workers", "Worker processes that are alive", found.workers),
        ("worker_threads", "Shards that they can hold at once", found.threads),
        ("webhook_deliveries_pending", "Deliveries that are still to be made", found.deliveries),
        ("webhook_lag_seconds", "How long the oldest delivery is overdue", found.overdue),
    ):
        yield GaugeMetricFamily(f"robustreps_{name}", what, value=value)


def exposition(*more: Collector) -> bytes:
    """What this process has counted, or all that share a port have, with what `more` collectors say."""
    shared = CollectorRegistry()
    for collector in more:
        shared.register(collector)
    if metrics.is_shared:
        MultiProcessCollector(shared)
        return generate_latest(shared)
    return generate_latest(metrics.REGISTRY) + generate_latest(shared)
