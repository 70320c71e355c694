"""A worker that computes on processors leaves them to others."""

import subprocess
import sys

import pytest

CODE = """
import os
from service.settings import Settings
from workers.runtime import give_way
give_way(Settings(device=%r, worker_nice=7))
print(os.getpriority(os.PRIO_PROCESS, 0))
"""


@pytest.mark.parametrize(("device", "nice"), [("cpu", "7"), ("cuda", "0")])
def test_only_a_worker_on_processors_gives_way(device: str, nice: str) -> None:
    command = [sys.executable, "-c", CODE % device]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == nice
