"""Who may use the device: one thread at a time, in the order they asked."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


class Turns:
    """A fair lock. A thread that computes for long passes it on between two pieces of its work."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[int] = deque()

    def __enter__(self) -> "Turns":
        me = threading.get_ident()
        with self._changed:
            self._line.append(me)
            self._changed.wait_for(lambda: self._line[0] == me)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with self._changed:
            self._line.popleft()
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
        """Let everyone who waits go first; for the thread whose turn it is."""
        if len(self._line) > 1:
            with self.away():
                pass
