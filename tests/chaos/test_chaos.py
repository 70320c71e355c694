"""Nothing is lost: faults of every kind under load break no promise. `python -m tests.chaos` has longer runs."""

import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS, schedule
from tests.chaos.processes import Part, clock_library
from tests.chaos.run import LOST_SECONDS, run
from tests.chaos.violations import Violation
from tests.chaos.world import living
from tests.servers import Bucket

SEED, PACE = 20, 2.0


def promise(violation: Violation | None) -> str:
    """Which promise was broken."""
    assert violation is not None
    return violation.promise


@pytest.mark.chaos
@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_fault_of_every_kind_loses_nothing(servers_dir: Path, s3_bucket: Bucket) -> None:
    faults = schedule(SEED, len(FAULTS), workers=2, pace=PACE)
    lines: list[str] = []
    with living(servers_dir / "chaos", s3_bucket, workers=2, seed=SEED) as world:
        report = run(world, faults, SEED, 10, lines.append, lost_seconds=4 * LOST_SECONDS)  # on a busy machine
    assert report.broken == [], "\n".join(lines)
    assert report.faults.keys() == FAULTS.keys()
    assert report.items > 20
    assert report.lost, "no claim went on with another's work"


def test_a_seed_is_a_schedule_and_a_longer_one_begins_like_it() -> None:
    assert schedule(1, 100, 2, 3.0) == schedule(1, 100, 2, 3.0)
    assert schedule(1, 100, 2, 3.0)[:50] == schedule(1, 50, 2, 3.0)
    assert schedule(1, 100, 2, 3.0) != schedule(2, 100, 2, 3.0)


def test_a_process_that_ends_by_itself_is_reported_and_started_again(tmp_path: Path) -> None:
    part = Part("part", ["true"], dict(os.environ), tmp_path)
    first = part.process.pid
    part.process.wait()
    assert promise(part.tend()) == "no process ends by itself"
    assert part.process.pid != first
    part.end()


def test_a_process_that_was_killed_is_no_surprise(tmp_path: Path) -> None:
    part = Part("part", ["sleep", "60"], dict(os.environ), tmp_path)
    assert part.tend() is None
    part.kill()
    part.process.wait()
    assert part.tend() is None
    part.end()


def test_a_process_that_does_not_end_when_asked_is_reported(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    deaf = ["sh", "-c", f"trap '' TERM; touch {begun}; exec sleep 60"]
    part = Part("part", deaf, dict(os.environ), tmp_path)
    while not begun.exists():
        time.sleep(0.01)
    part.drain(within=60)
    time.sleep(0.1)
    assert part.tend() is None
    part.drain(within=0)
    assert promise(part.tend()) == "a drain ends in time"
    part.end()


def test_a_worker_whose_clock_is_wrong_still_sleeps_right(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_bytes(struct.pack("q", 3600))
    code = "import time; t = time.monotonic(); time.sleep(0.2); print(time.time(), time.monotonic() - t)"
    environment = {"LD_PRELOAD": str(clock_library(tmp_path)), "CLOCK_SKEW_FILE": str(clock)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, text=True)
    now, slept = map(float, ran.stdout.split())
    assert now - time.time() == pytest.approx(3600, abs=30)
    assert 0.2 <= slept < 60
