"""What `make soak` takes for a leak, and what not: an hour of looks every 5 seconds, made up."""

import random
from collections.abc import Callable

import pytest

from bench.growth import Growth, growth

HOUR = 3600.0


def hour(what: str, value: Callable[[float], float], seconds: float = HOUR) -> Growth:
    rng = random.Random(0)
    looks = [(at, value(at) + 3 * rng.random()) for at in range(0, int(seconds), 5)]
    return growth(what, looks, seconds)


def busy(at: float) -> float:
    """More in use in every other minute, and more the longer it takes: what others do on the machine."""
    return (at // 60 % 2) * (30 + at / 30)


@pytest.mark.parametrize("what", ["files", "threads", "connections"])
def test_one_that_stays_open_every_half_minute_is_a_leak(what: str) -> None:
    assert hour(what, lambda at: 20 + at // 30).leaks


def test_a_process_that_stays_every_ten_minutes_is_a_leak() -> None:
    assert hour("processes", lambda at: at // 500).leaks


def test_two_megabytes_a_minute_are_a_leak() -> None:
    found = hour("memory_mb", lambda at: 200 + at / 30)
    assert found.leaks
    assert found.rises == pytest.approx(80, abs=5), "in the 40 minutes from the middle of the first part to the last"


@pytest.mark.parametrize("what", ["memory_mb", "files", "threads", "connections"])
def test_a_load_that_comes_and_goes_is_no_leak(what: str) -> None:
    assert not hour(what, lambda at: 100 + busy(at)).leaks
    assert hour(what, lambda at: 100 + busy(at) + at / 10).leaks, "unless something grows under it"


def test_what_grows_once_is_no_leak() -> None:
    assert not hour("memory_mb", lambda at: 1000 + min(at, 590)).leaks
    assert not hour("memory_mb", lambda at: 1000 + 300 * (at > 3000)).leaks, "nor one step, however late"


def test_too_few_looks_tell_nothing() -> None:
    found = hour("files", lambda at: at, seconds=120)
    assert (found.told, found.leaks, found.as_json()["leaks"]) == (False, False, None)


def test_a_machine_that_stood_still_for_a_while_hides_no_leak() -> None:
    looks = [(float(at), at / 30) for at in range(0, 3600, 5) if not 1000 < at < 1900]
    assert growth("files", looks, HOUR).leaks
