"""What a process counts, for Prometheus. docs/observe.md says what each is for; a test holds that table to this.

Several processes that share the API's port share their numbers by files in a folder, which prometheus_client adds up:
a scrape reaches only one of them, another one each time. `service/counting.py` has what is read when Prometheus asks.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from multiprocessing import current_process
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, values
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

disable_created_metrics()  # a series for each series, which nobody asks for
if is_shared := "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # several processes add their numbers up
    # By name, which one that is started in place of another has too: it counts on in the same files.
    values.ValueClass = values.MultiProcessValue(lambda: current_process().name)
T = TypeVar("T")
REGISTRY = CollectorRegistry()
FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SLOW = (0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200, 43_200)
PRIORITIES = ("low", "normal", "high")
COUNTS = "counts"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

REQUESTS = Histogram(
    "robustreps_http_request_seconds", "Seconds until an answer of the API began, by route",
    ["method", "route", "status"], buckets=FAST, registry=REGISTRY,
)  # fmt: skip
EVENTS = Counter(
    "robustreps_events", "Lines of jobs' logs: claims, lost leases, failed attempts, failed items, ...",
    ["event"], registry=REGISTRY,
)  # fmt: skip
WAIT = Histogram(
    "robustreps_wait_seconds", "Seconds from a job's submission to the first claim of any shard of it",
    ["priority"], buckets=SLOW, registry=REGISTRY,
)  # fmt: skip
PHASE = Histogram(
    "robustreps_phase_seconds", "Seconds of a shard's phases: claim, load, compute, save, upload",
    ["phase"], buckets=(*FAST, 60, 300, 1800), registry=REGISTRY,
)  # fmt: skip
STORAGE = Histogram(
    "robustreps_storage_operation_seconds", "Seconds of a call on the storage",
    ["operation"], buckets=FAST, registry=REGISTRY,
)  # fmt: skip
STORAGE_ERRORS = Counter(
    "robustreps_storage_errors", "Calls on the storage that failed, but for objects that are not there",
    ["operation"], registry=REGISTRY,
)  # fmt: skip
CONNECTIONS = Gauge(
    "robustreps_database_connections", "Connections to the database that are open, or in use",
    ["state"], registry=REGISTRY, multiprocess_mode="livesum",
)  # fmt: skip
CONNECTIONS_LIMIT = Gauge(
    "robustreps_database_connections_limit", "Connections that this process's pools may open", registry=REGISTRY,
    multiprocess_mode="livesum",
)  # fmt: skip
DATABASE_ERRORS = Counter(
    "robustreps_database_errors", "Statements that the database refused, or never answered", ["error"],
    registry=REGISTRY,
)  # fmt: skip
BROKER_ERRORS = Counter(
    "robustreps_broker_errors", "Exchanges with the broker that failed; the reconciler sends again", registry=REGISTRY
)
SENT = Counter("robustreps_messages_sent", "Messages for shards that the broker took", registry=REGISTRY)
PASSES = Counter("robustreps_reconciler_passes", "Passes of the reconciler", ["outcome"], registry=REGISTRY)
LAST_PASS = Gauge(
    "robustreps_reconciler_last_pass_timestamp_seconds", "When the reconciler last made a whole pass",
    registry=REGISTRY, multiprocess_mode="max",
)  # fmt: skip
DELIVERIES = Counter("robustreps_webhook_deliveries", "Attempts to deliver", ["outcome"], registry=REGISTRY)
DELIVERY = Histogram("robustreps_webhook_seconds", "Seconds of an attempt", buckets=FAST, registry=REGISTRY)
LOGGED = Counter("robustreps_log_lines", "Lines of the log that are warnings or worse", ["level"], registry=REGISTRY)

for _outcome in ("ok", "failed"):
    PASSES.labels(_outcome)
for _outcome in ("delivered", "failed"):
    DELIVERIES.labels(_outcome)
_requests: dict[tuple[str, str, int], Histogram] = {}


def request(method: str, route: str, status: int, seconds: float) -> None:
    """An answer has begun. `route` is a template, never an address: as many series as there are routes."""
    key = method if method in METHODS else "other", route, status
    if (found := _requests.get(key)) is None:
        found = _requests[key] = REQUESTS.labels(*map(str, key))
    found.observe(seconds)


def once_committed(session: Session, count: Callable[[], object]) -> None:
    """Have `Database.transaction` count what it did once that is done, and not if it is rolled back."""
    session.info.setdefault(COUNTS, []).append(count)


def watch_pool(engine: Engine, most: int) -> None:
    """Count an engine's connections, of which there may be so many, and what goes wrong on them."""
    CONNECTIONS_LIMIT.inc(most)
    opened, used = CONNECTIONS.labels("open"), CONNECTIONS.labels("in_use")
    event.listen(engine, "connect", lambda *_: opened.inc())
    event.listen(engine, "close", lambda *_: opened.dec())

    @event.listens_for(engine, "checkout")
    def _taken(_: Any, record: ConnectionPoolEntry, __: Any) -> None:
        record.info[used] = True
        used.inc()

    @event.listens_for(engine, "checkin")
    def _returned(_: Any, record: ConnectionPoolEntry) -> None:
        if record.info.pop(used, False):  # in an outage those come back too that nobody could take
            used.dec()

    @event.listens_for(engine, "handle_error")
    def _failed(context: Any) -> None:
        DATABASE_ERRORS.labels(type(context.sqlalchemy_exception or context.original_exception).__name__).inc()


@contextmanager
def phase(name: str) -> Iterator[None]:
    """The block is this phase of a shard."""
    began = time.perf_counter()
    try:
        yield
    finally:
        PHASE.labels(name).observe(time.perf_counter() - began)


def measured(failure: type[Exception], **operations: str) -> Callable[[type[T]], type[T]]:
    """A class of storages: its methods of these names are timed as these operations, and their `failure`s counted."""

    def change(of: type[T]) -> type[T]:
        for name, operation in operations.items():
            setattr(of, name, _timed(operation, getattr(of, name), failure))
        return of

    return change


def _timed(operation: str, call: Callable[..., Any], failure: type[Exception]) -> Callable[..., Any]:
    seconds, errors = STORAGE.labels(operation), STORAGE_ERRORS.labels(operation)

    @wraps(call)
    def timed(self: Any, *given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(self, *given, **named)
        except failure:
            errors.inc()
            raise
        finally:
            seconds.observe(time.perf_counter() - began)

    return timed
