"""The phases of a shard, each measured and traced: claim, compute, and within it load, save and upload."""

from collections.abc import Iterator
from contextlib import contextmanager

from service import metrics, tracing
from service.leases import Work

NANOSECONDS = 1e9


@contextmanager
def phase(name: str) -> Iterator[None]:
    """The block is this phase of the shard that the thread computes."""
    with metrics.phase(name), tracing.span(name):
        yield


def claimed(work: Work, since: int) -> None:
    """The claim that began at `since`, and how long the job waited before, unless it was begun earlier."""
    until = tracing.now()
    metrics.PHASE.labels("claim").observe((until - since) / NANOSECONDS)
    if work.lease.epoch == 1:
        tracing.past("queue", int(work.created_at * NANOSECONDS), since)
    tracing.past("claim", since, until)
