"""How often something may be done: so many times a minute, as many of them at once."""

import math
import time
from collections.abc import Hashable

MINUTE = 60.0
MOST = 10_000


class Buckets:
    """Of a process. Each `who` has a bucket that holds what a minute allows, and fills up as time goes by."""

    def __init__(self) -> None:
        self._left: dict[Hashable, tuple[float, float]] = {}

    def wait(self, who: Hashable, a_minute: float, take: float = 1.0) -> int:
        """0 if it may be done now, which then counts; or the seconds until it may. `take` 0 only looks."""
        at = time.monotonic()
        left, before = self._left.get(who, (a_minute, at))
        left = min(left + (at - before) * a_minute / MINUTE, a_minute)
        if left < 1:
            return max(math.ceil((1 - left) * MINUTE / a_minute), 1)
        if take:
            if len(self._left) >= MOST:
                self._left.clear()
            self._left[who] = (left - take, at)
        return 0
