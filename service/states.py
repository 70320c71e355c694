"""The states of jobs, shards and items, and the moves between them that are legal."""

from enum import StrEnum


class JobState(StrEnum):
    VALIDATING = "validating"  # accepted; its items are being checked and planned into shards
    QUEUED = "queued"  # planned; no worker has begun
    RUNNING = "running"  # a worker has claimed a shard
    PAUSED = "paused"  # held by the client; workers keep checkpoints and let go
    FINALIZING = "finalizing"  # every item is terminal; the job's own artifacts are being made
    CANCELLING = "cancelling"  # cancelled by the client, or its deadline passed; workers are still letting go
    SUCCEEDED = "succeeded"  # every item succeeded
    PARTIALLY_SUCCEEDED = "partially_succeeded"  # some items succeeded, some failed
    FAILED = "failed"  # no item succeeded
    CANCELLED = "cancelled"  # cancelled; finished items keep their results
    EXPIRED = "expired"  # its deadline passed


class ShardState(StrEnum):
    WAITING = "waiting"  # draws on other jobs that are not over
    QUEUED = "queued"  # waits for a worker
    RUNNING = "running"  # leased to the worker of its current epoch
    DONE = "done"  # every item of it is terminal
    CANCELLED = "cancelled"  # let go after a cancel


class ItemState(StrEnum):
    QUEUED = "queued"  # no worker has it
    RUNNING = "running"  # in the shard that a worker holds
    SUCCEEDED = "succeeded"  # its artifacts are stored and their rows committed
    FAILED = "failed"  # it alone cannot be computed; `error` says why
    CANCELLED = "cancelled"  # its job was cancelled, or its deadline passed, first


_J = JobState
_STOPPABLE = {_J.CANCELLING, _J.CANCELLED, _J.FAILED, _J.EXPIRED}
_RETRIED = {_J.QUEUED}  # a client has failed items of it, or of a part of it, tried again

JOB_MOVES: dict[JobState, set[JobState]] = {
    _J.VALIDATING: {_J.QUEUED, *_STOPPABLE},
    _J.QUEUED: {_J.RUNNING, _J.PAUSED, _J.FINALIZING, *_STOPPABLE},
    _J.RUNNING: {_J.PAUSED, _J.FINALIZING, *_STOPPABLE},
    _J.PAUSED: {_J.QUEUED, _J.FINALIZING, *_STOPPABLE},
    _J.FINALIZING: {_J.SUCCEEDED, _J.PARTIALLY_SUCCEEDED, _J.FAILED},
    _J.CANCELLING: {_J.CANCELLED, _J.EXPIRED},
    _J.SUCCEEDED: _RETRIED,
    _J.PARTIALLY_SUCCEEDED: _RETRIED,
    _J.FAILED: _RETRIED,
    _J.CANCELLED: set(),
    _J.EXPIRED: set(),
}

TERMINAL_JOB = {_J.SUCCEEDED, _J.PARTIALLY_SUCCEEDED, _J.FAILED, _J.CANCELLED, _J.EXPIRED}
TERMINAL_ITEM = {ItemState.SUCCEEDED, ItemState.FAILED, ItemState.CANCELLED}


def sources(target: JobState) -> list[JobState]:
    """The states from which a job may move to `target`."""
    return [state for state, moves in JOB_MOVES.items() if target in moves]
