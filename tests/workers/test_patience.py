"""Calls on servers that are away are made again, within bounds; other errors are nobody's outage."""

import errno
import time
from collections.abc import Callable

import pytest
from PIL import UnidentifiedImageError
from sqlalchemy.exc import IntegrityError, OperationalError

from service.storage import StorageError
from workers.patience import is_away, is_disk, patiently

AWAY = StorageError("503")


def failing(times: int, error: Exception = AWAY) -> tuple[Callable[[], str], list[float]]:
    """A call that works after so many failures, and when it was made."""
    made: list[float] = []

    def call() -> str:
        made.append(time.monotonic())
        if len(made) <= times:
            raise error
        return "done"

    return call, made


def test_a_call_is_made_until_it_works() -> None:
    call, made = failing(4)
    assert patiently(call, 60, lambda: False) == "done"
    assert len(made) == 5


def test_it_is_given_up_after_its_time_with_its_own_error() -> None:
    call, made = failing(1000)
    begun = time.monotonic()
    with pytest.raises(StorageError, match="503"):
        patiently(call, 1.0, lambda: False)
    assert len(made) > 1
    assert 1 <= time.monotonic() - begun < 60


def test_a_worker_that_lets_go_tries_once() -> None:
    call, made = failing(1000)
    with pytest.raises(StorageError):
        patiently(call, 60, lambda: True)
    assert len(made) == 1


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), IntegrityError("x", {}, Exception())], ids=repr)
def test_an_error_that_stays_is_raised_at_once(error: Exception) -> None:
    call, made = failing(1000, error)
    with pytest.raises(type(error)):
        patiently(call, 60, lambda: False)
    assert len(made) == 1
    assert not is_away(error)


def test_a_lost_connection_is_an_outage_whatever_it_is_called() -> None:
    assert is_away(OperationalError("x", {}, Exception()))
    assert is_away(IntegrityError("x", {}, Exception(), connection_invalidated=True))


def test_a_full_disk_is_told_from_a_file_that_is_bad_or_not_there() -> None:
    assert is_disk(OSError(errno.ENOSPC, "no space left"))
    assert not is_disk(UnidentifiedImageError("not an image"))
    assert not is_disk(FileNotFoundError(errno.ENOENT, "not there"))
    assert not is_disk(PermissionError(errno.EACCES, "not ours"))
    assert not is_disk(ValueError("x"))
