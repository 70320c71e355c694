"""A progress line on standard error, for programs that have the standard library alone."""

import sys
import time


class Progress:
    """Counts towards `total`; writes a line at most every `interval` seconds, and one at the end."""

    def __init__(self, title: str, total: int, interval: float = 2.0, done: int = 0) -> None:
        self.title, self.total, self.interval = title, total, interval
        self.first = self.done = done
        self.start = time.monotonic()
        self.written = self.start

    def advance(self, n: int, note: str = "") -> None:
        self.done += n
        now = time.monotonic()
        if now - self.written < self.interval and self.done < self.total:
            return
        self.written = now
        left = (now - self.start) / (self.done - self.first) * (self.total - self.done)
        end = "\n" if self.done >= self.total or not sys.stderr.isatty() else "\r"
        print(
            f"{self.title}: {self.done}/{self.total}  {left:.0f} s left  {note}", end=end, file=sys.stderr, flush=True
        )
