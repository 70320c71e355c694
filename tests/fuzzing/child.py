"""A process that knocks at a door, so that one that crashes, hangs or fills the memory does so there and is told of.

`python -m tests.fuzzing.child DOOR` reads lengths and bytes, and answers each with a line of JSON.
"""

import json
import os
import resource
import select
import struct
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from tests.fuzzing.doors import DOORS, PLANTED, quiet

MOST_GROWTH, LIMIT = 128, 1024
"""Megabytes of memory that a door may take beside what it has after the seeds; beyond the second, it gets no more."""
MOST_SECONDS = 5.0
"""Of processor time, for what is a few kilobytes."""
PATIENCE = 120.0
"""Seconds after which no answer is waited for, however busy the machine."""
ROOT = Path(__file__).parents[2]


class Fault(AssertionError):  # noqa: N818 - what a door did
    """What a door did that it never may."""


def reserved() -> int:
    """Megabytes of addresses that this process had at most, used or not: what is asked for and not touched counts."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmPeak:")[1].split()[0]) // 1024


class Child:
    """One such process, started again after a fault."""

    def __init__(self, door: str) -> None:
        self.door = door
        self._start()

    def _start(self) -> None:
        command = [sys.executable, "-m", "tests.fuzzing.child", self.door]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=environment
        )
        assert self._line(), f"the door {self.door} does not open"

    def knock(self, data: bytes) -> bool:
        """Whether it was accepted. Raises Fault."""
        assert self._process.stdin is not None
        self._process.stdin.write(struct.pack("<I", len(data)) + data)
        self._process.stdin.flush()
        found = self._answer()
        if "fault" in found:
            raise Fault(found["fault"])
        if found["seconds"] > MOST_SECONDS:
            raise Fault(f"{found['seconds']:.1f} seconds for {len(data)} bytes")
        if found["grown"] > MOST_GROWTH:
            self._again(f"{found['grown']} MB for {len(data)} bytes")
        return bool(found["accepted"])

    def _answer(self) -> dict[str, Any]:
        if not (line := self._line()):
            self._again("it hangs" if line is None else "it ended")
        found: dict[str, Any] = json.loads(line)
        return found

    def _line(self) -> bytes | None:
        """None if there is none in time; empty if there will be none."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        return self._process.stdout.readline() if ready else None

    def _again(self, why: str) -> NoReturn:
        self.close()
        status = self._process.returncode
        self._start()
        raise Fault(f"{why} (status {status})")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def main(name: str) -> None:
    quiet()
    door, answers = (DOORS | {"planted": PLANTED})[name], os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever is printed is no answer
    for seed in door.seeds():
        assert door.knock(seed), "the door refuses its own seeds"
    before = reserved()
    resource.setrlimit(resource.RLIMIT_AS, ((before + LIMIT) << 20, (before + LIMIT) << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers.write(json.dumps({"ready": True}) + "\n")
    while head := sys.stdin.buffer.read(4):
        data = sys.stdin.buffer.read(struct.unpack("<I", head)[0])
        begun = time.process_time()
        try:
            found: dict[str, Any] = {"accepted": door.knock(data)}
        except BaseException:
            found = {"fault": traceback.format_exc()[-4000:]}
        found |= {"seconds": time.process_time() - begun, "grown": reserved() - before}
        answers.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
