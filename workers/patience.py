"""Calls on servers that may be away for a while: tried again, within bounds, while there is still a reason to."""

import errno
from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from service.storage import StorageError

T = TypeVar("T")
log = structlog.get_logger()
DATABASE_SECONDS = 600.0
"""How long a worker waits for its database; a lease that runs out meanwhile is lost, but nothing else."""
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
LONGEST = 2.0
"""Seconds between two tries at most."""


def is_away(error: BaseException) -> bool:
    """Whether a server is to blame, and the same call may work later."""
    if isinstance(error, OperationalError | InterfaceError | PoolTimeout | StorageError):
        return True
    return isinstance(error, DBAPIError) and error.connection_invalidated


def is_disk(error: BaseException) -> bool:
    """Whether a disk that is full or broken is to blame, and not the file that was to be read."""
    return isinstance(error, OSError) and error.errno in DISK


def patiently(call: Callable[[], T], seconds: float, hopeless: Callable[[], bool]) -> T:
    """The call's answer, tried again for `seconds` unless it is `hopeless`.

    The call must bear being made again after it worked. Raises what its last try raised.
    """

    def over(state: RetryCallState) -> bool:
        return hopeless() or (state.seconds_since_start or 0) >= seconds

    def pause(state: RetryCallState) -> None:
        assert state.outcome
        log.warning("trying again", tried=state.attempt_number, reason=str(state.outcome.exception()))

    wait = wait_random_exponential(multiplier=0.2, max=LONGEST)
    return Retrying(retry=retry_if_exception(is_away), stop=over, wait=wait, before_sleep=pause, reraise=True)(call)
