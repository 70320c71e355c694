"""Continuous batching: searches of any job share a device batch, and come and go between blocks of steps.

    schedule: choose a lane, and fill its rows;  run: a block of steps;  postprocess: hand out what is over.

One thread owns the device. Others hand in rows and get a ticket; making a row ready, and storing what came of it, is
theirs to do meanwhile.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass

from workers.engine.glances import Glance
from workers.engine.lanes import BLOCK, Lane, Program
from workers.engine.memory import is_out_of_memory
from workers.engine.places import Place
from workers.engine.rows import DeviceError, Row, Search, Snapshot, Ticket, pinned
from workers.engine.turns import Turns
from workers.engine.waiting import Waiting

BLOCK_SECONDS = 1.0
"""What a block aims to take at most: how long a cancel, a newcomer or a heartbeat waits."""
CLOSE_SECONDS = 30.0
MOST_IDLE = 8
"""Lanes kept without a search, for their buffers and graphs; the least recently used goes first."""
WEIGHT = 4.0
"""How many times the time of the next lower priority a lane gets."""


@dataclass
class Stats:
    """What the device has done: `image_steps` of rows that searched, of `row_steps` that were computed."""

    image_steps: int = 0
    row_steps: int = 0
    blocks: int = 0
    seconds: float = 0.0


class Batcher:
    """Searches of any number of jobs on one device. `start` it, or call `step` until it answers False."""

    def __init__(
        self,
        most: int = 256,
        block: int = BLOCK,
        turns: Turns | None = None,
        most_of_tenant: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most, self.block, self.most_of_tenant, self.clock = most, min(block, BLOCK), most_of_tenant, clock
        self.turns = turns or Turns()
        self.on_broken: Callable[[], object] = lambda: None
        self.stats = Stats()
        self.places: OrderedDict[Hashable, Place] = OrderedDict()
        self._inbox: list[tuple[Program, Ticket]] = []
        self._asked: list[Callable[[], object]] = []
        self._changed = threading.Condition()
        self._cancels = threading.Event()
        self.ended = ""
        """Why nothing is computed any more, if so."""
        self._thread = threading.Thread(target=self._serve, name="batcher", daemon=True)

    def submit(
        self, program: Program, rows: Sequence[Row], priority: int = 1, tenant: str = "", begun: Snapshot | None = None
    ) -> Ticket:
        """Hand in rows, whose images and aims are at hand: nothing is loaded while the device waits.

        Those that have `begun` elsewhere go on from there. Raises DeviceError if nobody would compute them.
        """
        if program.device.type == "cuda":
            rows = [pinned(row) for row in rows]
        ticket = Ticket(rows, priority, tenant, self._cancels, begun)
        with self._changed:
            if self.ended:
                raise DeviceError(self.ended)
            self._inbox.append((program, ticket))
            self._changed.notify_all()
        return ticket

    def ask(self, ticket: Ticket) -> None:
        """Have the ticket answered a snapshot of its rows, between two blocks."""
        self._between(lambda: ticket.complete(self._snapshot(ticket)))

    def look(self, ticket: Ticket, numbers: Collection[int], answer: Callable[[list[Glance]], object]) -> None:
        """Have `answer` called with how those of the ticket's rows look that are computed, between two blocks.

        The device's thread calls it, so it must be quick, and raise nothing.
        """
        self._between(lambda: answer([g for place in self.places.values() for g in place.glances(ticket, numbers)]))

    def _between(self, act: Callable[[], object]) -> None:
        with self._changed:
            self._asked.append(act)
            self._changed.notify_all()

    def _snapshot(self, ticket: Ticket) -> Snapshot:
        found = (place.snapshot(ticket) for place in self.places.values())
        return {number: saved for snapshot in found for number, saved in snapshot.items()}

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop after the block that is running; what is not over is not computed."""
        self._end("the batcher was closed")
        if self._thread.ident:
            self._thread.join(CLOSE_SECONDS)  # a device that hangs would keep everyone
        self._abandon()

    def _end(self, reason: str) -> None:
        with self._changed:
            self.ended = self.ended or reason
            self._changed.notify_all()

    def lose(self, reason: str) -> None:
        """The device answers no more, as somebody else found: end, and say so to whoever started this."""
        self._end(reason)
        self.on_broken()

    def _abandon(self) -> None:
        """Tell whoever waits for a row that nobody computes it."""
        waiting = [search for place in self.places.values() for search in place.everyone()]
        for search in [*waiting, *(search for _, ticket in self._inbox for search in ticket.searches)]:
            search.ticket.complete(DeviceError(self.ended))
        self.places.clear()
        self._inbox.clear()

    def _serve(self) -> None:
        try:
            while not self.ended:
                with self.turns:
                    if self.step():
                        continue
                with self._changed:
                    self._changed.wait_for(lambda: self.ended or self._inbox or self._asked)
            self._abandon()
        except Exception as e:  # every row's own faults are caught below this: the device itself answers no more
            self._end(f"{type(e).__name__}: {e}")
            self._abandon()
            self.on_broken()

    def step(self) -> bool:
        """One block of one lane; False if no search is left."""
        place = self.schedule()
        if place is None:
            return False
        over = self.run(place)
        self.postprocess(place, over)
        return True

    def schedule(self) -> Place | None:
        """The lane that has had the least time for its priority, its rows filled."""
        self._take_in()
        wanted = [place for place in self.places.values() if place.wanted]
        if not wanted:
            return None
        chosen = min(wanted, key=lambda place: place.time)
        past = chosen.time
        for place in self.places.values():  # one that was idle has no claim on the past, and no debt
            place.time = place.time - past if place.wanted else 0.0
        chosen.fill(self.clock())
        return chosen

    def _take_in(self) -> None:
        with self._changed:
            arrived, self._inbox = self._inbox, []
            asked, self._asked = self._asked, []
        for program, ticket in arrived:
            try:
                place = self._place(program)
            except Exception as e:  # whatever a network does on its first row is the fault of those who brought it
                for search in ticket.searches:
                    search.fail(f"{type(e).__name__}: {e}")
                continue
            for search in ticket.searches:
                if program.exact and search.k >= program.leaves_at(search.row):
                    self._go_over(program.exact, search)
                else:
                    place.waiting.push(search, self.clock())
        if self._cancels.is_set():
            self._cancels.clear()
            for place in self.places.values():
                place.drop_cancelled()
        for act in asked:
            act()

    def _place(self, program: Program) -> Place:
        if program.lane not in self.places:
            self._drop_idle(MOST_IDLE - 1)
            self.places[program.lane] = Place(Lane(program, self.most), Waiting(self.most_of_tenant))
        self.places.move_to_end(program.lane)
        return self.places[program.lane]

    def _drop_idle(self, most: int) -> bool:
        """Keep at most so many lanes that nobody wants; whether any went."""
        idle = [key for key, place in self.places.items() if not place.wanted]
        for key in idle[: max(len(idle) - most, 0)]:
            del self.places[key]
        return len(idle) > most

    def run(self, place: Place) -> list[Search]:
        """A block of steps, as long as nothing is over before; answers what is over after it."""
        lane, began, done, live, bucket = place.lane, time.perf_counter(), 0, place.lane.count, place.lane.bucket
        if not live:  # of those that waited, none could be taken in
            return []
        try:
            for made in lane.run(self._steps(lane)):
                done = made
            over = lane.fetch(done)
            place.faults = 0
        except Exception as e:  # memory, or a network that cannot take what some row holds: the others go on
            self.postprocess(place, lane.fetch(done))
            over = []
            if not (is_out_of_memory(e) and self._drop_idle(0)):
                place.recover(e)
        if done:
            self._account(place, done, live, bucket, time.perf_counter() - began)
        return over

    def _steps(self, lane: Lane) -> int:
        first_over = min(lane.program.leaves_at(search.row) - search.k for search in lane.searches)
        seconds = lane.seconds_per_row  # too many for a batch that has grown, which is then measured anew
        in_time = 1 if seconds is None else int(BLOCK_SECONDS / (seconds * lane.bucket))
        return max(min(self.block, first_over, in_time), 1)

    def _account(self, place: Place, steps: int, live: int, bucket: int, seconds: float) -> None:
        place.lane.seconds_per_row = seconds / (steps * bucket)
        place.time += seconds / WEIGHT**place.priority
        self.stats.seconds += seconds
        self.stats.blocks += 1
        self.stats.row_steps += steps * bucket
        self.stats.image_steps += steps * live

    def postprocess(self, place: Place, over: list[Search]) -> None:
        """Give back what is over, hand on what ends in full precision, and close the gaps."""
        for search in over:
            search.end(*place.lane.result(search))
        program = place.lane.program
        if program.exact:
            for search in place.lane.searches:
                if search.k >= program.leaves_at(search.row):
                    place.lane.hand_over(search)
                    self._go_over(program.exact, search)
        place.lane.compact()

    def _go_over(self, exact: Program, search: Search) -> None:
        try:
            self._place(exact).waiting.push(search, self.clock())
        except Exception as e:  # as for those who bring a network that cannot be run
            search.fail(f"{type(e).__name__}: {e}")
