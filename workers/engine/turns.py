"""Who may use the device: one thread at a time, in the order they asked."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


class Turns:
    """A fair lock. A thread that computes for long passes it on between two pieces of its work."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[int] = deque()
        self._sign: float | None = None

    def __enter__(self) -> "Turns":
        me = threading.get_ident()
        with self._changed:
            self._line.append(me)
            self._changed.wait_for(lambda: self._line[0] == me)
            self._sign = time.monotonic()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with self._changed:
            self._line.popleft()
            self._sign = None
            self._changed.notify_all()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Give the turn up for as long as this takes, and ask for another after it."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def pass_on(self) -> None:
        """Let everyone who waits go first, and show that the device answers; for the thread whose turn it is."""
        self._sign = time.monotonic()
        if len(self._line) > 1:
            with self.away():
                pass

    def silent(self) -> float:
        """Seconds since whoever has the turn got it or passed it on; 0 if nobody has it."""
        sign = self._sign
        return 0.0 if sign is None else time.monotonic() - sign
