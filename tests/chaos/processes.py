"""Processes that end and begin again: those of the service, as an orchestrator would have it, and its servers."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path

from deploy import servers
from tests.chaos.violations import Violation

ROBUSTREPS = str(Path(sys.executable).with_name("robustreps"))
DRAIN_SECONDS, MARGIN = 5.0, 30.0
"""How long a worker may take to let go, and how much later its process must have ended on a busy machine."""


class Part:
    """A process of the service that is started again whenever it ends, as an orchestrator would."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        self._command, self._environment = servers.tethered(command), environment
        self._start()

    def _start(self) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(self._command, env=self._environment, stdout=out, stderr=subprocess.STDOUT)
        self._codes: set[int] = set()
        """Exit codes that are no surprise."""
        self._deadline = float("inf")

    @property
    def holder(self) -> str:
        """How the column `worker` of the shards that it holds begins."""
        return f"{socket.gethostname()}:{self.process.pid}:"

    def kill(self) -> None:
        self._codes.add(-signal.SIGKILL)
        self.process.kill()

    def drain(self, within: float = DRAIN_SECONDS + MARGIN) -> None:
        """Ask the process to end: soon, and in order unless it has only just begun."""
        self._codes |= {0, -signal.SIGTERM}
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self._deadline = min(self._deadline, time.monotonic() + within)

    def tend(self) -> Violation | None:
        """Start the process again if it has ended. A violation: it ended by itself, or has not ended in time."""
        code, found = self.process.poll(), None
        if code is None and time.monotonic() < self._deadline:
            return None
        if code is None:
            found = self.hangs()
        elif code not in self._codes:
            found = Violation("no process ends by itself", f"{self.name} ended with {code}: see {self.log}")
        self._start()
        return found

    def hangs(self) -> Violation:
        """End a process that did not, with a trace of every thread in its log."""
        self.process.send_signal(signal.SIGABRT)
        self.process.wait()
        return Violation("a drain ends in time", f"{self.name} went on: see {self.log}")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


class Server:
    """A server that keeps its data and its port through a restart."""

    def __init__(self, start: Callable[[Path, int], AbstractContextManager[str]], folder: Path) -> None:
        self._start, self.folder, self.port = start, folder, servers.usable_port()
        self._exits = ExitStack()
        self.url = self._exits.enter_context(start(folder, self.port))

    def send(self, number: int, children: bool = False) -> None:
        """Send the server a signal, and its children if they are to have it; they may have ended by another."""
        with suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = int((self.folder / "pid").read_text())
            os.kill(pid, number)
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if children else ():
                with suppress(ProcessLookupError):
                    os.kill(int(child), number)

    def freeze(self) -> None:
        self.send(signal.SIGSTOP, children=True)

    def thaw(self) -> None:
        self.send(signal.SIGCONT, children=True)

    def restart(self, by: int) -> None:
        """End the server by a signal, wait until it is gone, and start it again."""
        self.thaw()
        self.send(by)
        self._exits.close()
        self.url = self._exits.enter_context(self._start(self.folder, self.port))

    def close(self) -> None:
        self.thaw()
        self._exits.close()


def running(folder: Path) -> Iterator[str]:
    """Command lines of processes that know a worker's clock."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"CLOCK_SKEW_FILE={folder}/".encode() in (process / "environ").read_bytes():
                yield (process / "cmdline").read_text().replace("\0", " ")


def clock_library(folder: Path) -> Path:
    """The library that lets a process's clock be wrong, compiled."""
    library, source = folder / "skew.so", Path(__file__).with_name("skew.c")
    compiler = servers.find("cc", "gcc and libc6-dev")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library
