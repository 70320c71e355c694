"""Whether a quantity grows while a load runs. What leaks raises its floor; how busy the machine is does not."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import median
from typing import Any

Values = Sequence[tuple[float, float]]
"""Seconds since the start, and the value then."""
PARTS, WARM = 12, 3
"""The time is split into so many; the first of them are for what grows once: caches, pools, what is compiled."""
LOOKS, LEAST = 3, 6
"""A part of fewer looks tells nothing, and fewer parts tell no trend."""
MOST = {
    "memory_mb": (0.10, 40.0), "files": (0.0, 20.0), "threads": (0.0, 20.0), "processes": (0.0, 4.0),
    "connections": (0.0, 20.0),
}  # fmt: skip
"""How much the floor may rise: by this share of itself, and so much. There are many hundreds of requests and jobs: what
each leaves behind is more."""


@dataclass(frozen=True)
class Growth:
    """Of a quantity after the warm parts: its floors in order, and by how much they rise in that time."""

    floors: list[float]
    rises: float
    allowed: float

    @property
    def told(self) -> bool:
        """Whether there was enough to see."""
        return len(self.floors) >= LEAST

    @property
    def leaks(self) -> bool:
        return self.told and self.rises > self.allowed

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"leaks": self.leaks if self.told else None}


def floors(values: Values, seconds: float) -> list[tuple[float, float]]:
    """The middle of each part after the warm ones, and the least value in it."""
    size = seconds / PARTS
    found = []
    for n in range(WARM, PARTS):
        inside = [value for at, value in values if n * size <= at < (n + 1) * size]
        if len(inside) >= LOOKS:
            found.append(((n + 0.5) * size, min(inside)))
    return found


def growth(what: str, values: Values, seconds: float) -> Growth:
    """Of values over so many seconds; `what` is a key of `MOST`.

    The trend is Theil's and Sen's, the median of the slopes of all pairs, so that a few odd parts do not matter.
    """
    points = floors(values, seconds)
    lows = [low for _, low in points]
    if len(points) < 2:
        return Growth(lows, 0.0, 0.0)
    slope = median((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2))
    share, plus = MOST[what]
    return Growth(lows, slope * (points[-1][0] - points[0][0]), share * median(lows) + plus)
