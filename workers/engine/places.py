"""A lane with those who wait for its rows: who gets one, who gives one up, and how it goes on after a fault."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from workers.engine.glances import Glance, glance
from workers.engine.lanes import Lane
from workers.engine.memory import is_out_of_memory
from workers.engine.rows import Search, Snapshot, Ticket
from workers.engine.waiting import Waiting, claim

MOST_FAULTS = 3
"""Faults in a row that no row of a batch raises alone, until all of them are given up."""


@dataclass
class Place:
    """One lane of a batcher."""

    lane: Lane
    waiting: Waiting
    time: float = 0.0
    """Seconds that it had on the device, over its weight, against the other lanes."""
    faults: int = 0

    @property
    def wanted(self) -> bool:
        return bool(self.waiting) or self.lane.count > 0

    @property
    def priority(self) -> int:
        """The highest of those that run or wait."""
        return max({search.ticket.priority for search in self.lane.searches} | self.waiting.priorities(), default=0)

    def everyone(self) -> list[Search]:
        return self.lane.searches + self.waiting.searches()

    def snapshot(self, ticket: Ticket) -> Snapshot:
        """The ticket's searches here that have begun."""
        running = {s.number: s.saved(self.lane.state(s)) for s in self.lane.searches if s.ticket is ticket}
        waiting = (s for s in self.waiting.searches() if s.ticket is ticket)
        return running | {s.number: s.saved(s.state) for s in waiting if s.state}

    def glances(self, ticket: Ticket, numbers: Collection[int]) -> list[Glance]:
        """How those of the ticket's searches look that are computed here."""
        images, slots = self.lane.images[0], enumerate(self.lane.slots)
        found = [(images[i], s) for i, s in slots if s and s.ticket is ticket and s.number in numbers]
        return glance([x for x, _ in found], [s.number for _, s in found], [s.k for _, s in found])

    def drop_cancelled(self) -> None:
        self.waiting.drop_cancelled()
        for search in self.lane.searches:
            if search.ticket.cancelled:
                self.lane.take(search)
        self.lane.compact()

    def fill(self, now: float) -> None:
        """Give free rows to those who wait, and others' rows to those who have more of a claim to them."""
        running = Counter(search.ticket.tenant for search in self.lane.searches)
        while search := self.waiting.peek(running, now, aged := self.lane.count < self.lane.capacity):
            if self.lane.count == self.lane.capacity:
                victim = self._victim(search, running)
                if victim is None:
                    return
                self.lane.take(victim)
                self.waiting.push_back(victim)
                victim.waits_since = now
                running[victim.ticket.tenant] -= 1
            try:
                self.lane.put(search)  # while it still waits, so that one is answered whatever breaks here
            except ValueError as e:
                self.waiting.take(search)
                search.fail(str(e))
                continue
            self.waiting.take(search)
            search.claim = claim(search, now, aged)
            running[search.ticket.tenant] += 1

    def _victim(self, search: Search, running: Counter[str]) -> Search | None:
        """Who makes room: one of a lower claim, else one of a tenant with at least two rows more; the least far."""
        priority, mine = search.ticket.priority, running[search.ticket.tenant]
        lower = [s for s in self.lane.searches if s.claim < priority]
        others = [
            s for s in self.lane.searches if s.ticket.priority <= priority and running[s.ticket.tenant] > mine + 1
        ]
        return min(lower or others, key=lambda s: (s.ticket.priority, -running[s.ticket.tenant], s.k), default=None)

    def recover(self, error: Exception) -> None:
        """Go on with half the rows if memory ran out, else without those that raise by themselves too."""
        out = self.lane.searches
        for search in reversed(out):
            self.lane.take(search)
            self.waiting.push_back(search)  # at once: nobody is in neither place, whatever breaks
        if not is_out_of_memory(error):
            out = self._isolated(out)
        elif self.lane.shrink():
            return
        if is_out_of_memory(error) or self.faults >= MOST_FAULTS:
            for search in out:
                self.waiting.remove(search)
                search.fail(f"{type(error).__name__}: {error}")

    def _isolated(self, out: list[Search]) -> list[Search]:
        """Those that make a step alone; the others are over."""
        left = []
        for search in reversed(out):
            self.waiting.remove(search)
            self.lane.put(search)
            try:
                for _ in self.lane.run(1):
                    pass
            except Exception as e:  # it is this row's, whatever it is
                self.lane.take(search)
                search.fail(f"{type(e).__name__}: {e}")
                continue
            for over in self.lane.fetch(1):
                over.end(*self.lane.result(over))
            if search in self.lane.slots:
                self.lane.take(search)
                self.waiting.push_back(search)
                left.append(search)
        self.faults += len(left) == len(out)
        return left
