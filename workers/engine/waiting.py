"""Which search is next: by priority, in it by turns between tenants, and nobody waits for ever."""

import itertools
from collections import Counter, deque

from workers.engine.rows import Search

AGING = 30.0
"""Seconds of waiting that count as one step of priority."""


class Waiting:
    """Searches that wait for a place in a batch, in the order in which each tenant handed them in."""

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        """Places that one tenant may have at once; None: all."""
        self._lines: dict[tuple[int, str], deque[Search]] = {}
        self._served: dict[tuple[int, str], int] = {}
        self._count = itertools.count()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __bool__(self) -> bool:
        return bool(self._lines)

    def push(self, search: Search, now: float) -> None:
        search.waits_since = now
        self._line(search).append(search)

    def push_back(self, search: Search) -> None:
        """One that was taken before goes to the head of its line, and has waited since it first came."""
        self._line(search).appendleft(search)

    def _line(self, search: Search) -> deque[Search]:
        return self._lines.setdefault((search.ticket.priority, search.ticket.tenant), deque())

    def peek(self, running: Counter[str], now: float, aged: bool = True) -> Search | None:
        """The next one, of a tenant that has not all its places, and the fewest at that (`running` counts them).

        `aged`, waiting counts too, before that.
        """
        allowed = [key for key in self._lines if self.most is None or running[key[1]] < self.most]
        if not allowed:
            return None

        def rank(key: tuple[int, str]) -> tuple[int, int, int]:
            return -claim(self._lines[key][0], now, aged), running[key[1]], self._served.get(key, -1)

        return self._lines[min(allowed, key=rank)][0]

    def take(self, search: Search) -> None:
        """Take out the one that `peek` answered."""
        self.remove(search)
        self._served[search.ticket.priority, search.ticket.tenant] = next(self._count)

    def remove(self, search: Search) -> None:
        """Take out any, which does not count as its tenant's turn."""
        key = search.ticket.priority, search.ticket.tenant
        self._lines[key].remove(search)
        if not self._lines[key]:
            del self._lines[key]

    def drop_cancelled(self) -> None:
        for key, line in list(self._lines.items()):
            kept = deque(search for search in line if not search.ticket.cancelled)
            if kept:
                self._lines[key] = kept
            else:
                del self._lines[key]

    def searches(self) -> list[Search]:
        return [search for line in self._lines.values() for search in line]

    def priorities(self) -> set[int]:
        return {priority for priority, _ in self._lines}


def claim(search: Search, now: float, aged: bool) -> int:
    """The priority of one that waits, a step higher for every AGING that it has waited if that counts."""
    return search.ticket.priority + (int((now - search.waits_since) / AGING) if aged else 0)
