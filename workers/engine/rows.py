"""A search as the batcher takes it in and gives it back: one image that descends its own objective.

Shapes: images [C, H, W] with pixels in [0, 1], representations [K]; everything is on the CPU.
"""

import math
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

NOT_FINITE = "the search met a number that is infinite or not a number"
GATHER = 0.02
"""Seconds that one that is over waits for those that end with it: to store them together costs a fraction."""
PLATEAU = 1e-3
"""The relative fall of the least loss that counts as one, where a row has `patience`."""


class DeviceError(RuntimeError):
    """The device answers no more; the searches are not at fault, and another process may finish them."""


@dataclass(frozen=True)
class Row:
    """From `x`, which is within `eps` of `x0`: `steps` steps of `step_size` (L2, pixel units), times a schedule.

    It descends ||R - aim|| / scale (paper, equation 4) if it `inverts`, or -aim.R (equation 5). It ends early at a loss
    of at most `stop_loss`; where the largest coordinate of aim `exceeds` every other one of R; after `patience` steps
    (0: never) in which the least loss fell by no more than PLATEAU; and where no gradient is left.
    """

    x: Tensor
    x0: Tensor
    aim: Tensor
    inverts: bool
    eps: float
    step_size: float
    steps: int
    scale: float = 1.0
    schedule: str = "constant"
    best: bool = False
    """Whether the result is the iterate of least loss, the first and last included, or the last."""
    stop_loss: float = -math.inf
    exceeds: bool = False
    patience: int = 0
    frames: frozenset[int] = frozenset()
    """Steps before which the iterate is kept as a frame; with any, the result is the last frame."""


def pinned(row: Row) -> Row:
    """The same in memory that a GPU reads by itself, so that a copy does not hold up the host."""
    return replace(row, **{name: getattr(row, name).pin_memory() for name in ("x", "x0", "aim")})


@dataclass
class State:
    """Where a row stands once it is off the device: what `Lane` needs to go on with it to the last bit."""

    images: list[Tensor]
    numbers: Tensor


@dataclass(frozen=True)
class Saved:
    """A search under way, as it stood between two blocks: with it a batcher goes on, in this process or another.

    `loss` and `grad_norm` [k] are of its k steps so far, `frames` by step; see `Outcome`.
    """

    state: State
    k: int
    loss: np.ndarray
    grad_norm: np.ndarray
    frames: dict[int, Tensor]
    bucket: int


Snapshot = dict[int, Saved]
"""Searches of a ticket by number: those that have begun and are not over."""


@dataclass(frozen=True)
class Outcome:
    """What came of a row: its result x, and its trace.

    `loss` [k + 1] is that of the first x and after each of its k steps, and at its end the result's; `grad_norm` [k] is
    of before each step; `frames` [F, C, H, W] uint8 were before `frame_steps`. With an `error` there is no result.
    """

    number: int
    x: Tensor
    loss: Tensor
    grad_norm: Tensor
    frames: Tensor
    frame_steps: list[int]
    bucket: int
    """Rows in the largest batch that it went through."""
    error: str | None = None


@dataclass(eq=False)
class Search:
    """A row on its way: its place in its ticket, its state if it is off the device, its trace so far."""

    row: Row
    ticket: "Ticket"
    number: int
    state: State | None = None
    k: int = 0
    loss: list[np.ndarray] = field(default_factory=list)
    grad_norm: list[np.ndarray] = field(default_factory=list)
    frames: dict[int, Tensor] = field(default_factory=dict)
    bucket: int = 0
    waits_since: float = 0.0
    claim: int = 0
    """Its priority, and that of its waiting where this won it the place that it has."""

    @classmethod
    def begun(cls, row: Row, ticket: "Ticket", number: int, at: Saved | None) -> "Search":
        """A new one, or one that goes on."""
        if at is None:
            return cls(row, ticket, number)
        return cls(row, ticket, number, at.state, at.k, [at.loss], [at.grad_norm], dict(at.frames), at.bucket)

    def saved(self, state: State) -> Saved:
        """It as it stands, with the state that its lane has."""
        return Saved(state, self.k, _joined(self.loss), _joined(self.grad_norm), dict(self.frames), self.bucket)

    def fail(self, error: str) -> None:
        """It cannot go on, and its neighbours can."""
        self.ticket.complete(self._outcome(self.row.x, math.nan, error))

    def end(self, x: Tensor, loss: float, bad: bool) -> None:
        """It is over, at x [C, H, W] with this loss, or because it met a bad number."""
        self.ticket.complete(self._outcome(x, loss, NOT_FINITE if bad else None))

    def _outcome(self, x: Tensor, loss: float, error: str | None) -> Outcome:
        trace = _joined(self.loss)
        if self.row.best and error is None:
            trace[-1] = loss
            self.loss = [trace]
        kept = dict(sorted((step, frame) for step, frame in self.frames.items() if step < self.k))
        if self.row.frames:
            kept[self.k] = as_frame(x)
        frames = torch.stack(list(kept.values())).cpu() if kept else torch.empty(0, *x.shape, dtype=torch.uint8)
        norms = torch.from_numpy(_joined(self.grad_norm))
        return Outcome(self.number, x, torch.from_numpy(trace), norms, frames, list(kept), self.bucket, error)


class Ticket:
    """Rows that were handed in together. `steps` [rows] follows them block by block; `over` says which are."""

    def __init__(
        self, rows: Sequence[Row], priority: int, tenant: str, cancels: threading.Event, begun: Snapshot | None = None
    ) -> None:
        self.priority, self.tenant, self.cancelled, self._cancels = priority, tenant, False, cancels
        self.searches = [Search.begun(row, self, n, (begun or {}).get(n)) for n, row in enumerate(rows)]
        self.steps = np.array([search.k for search in self.searches], np.int64)
        self.over = np.zeros(len(rows), np.bool_)
        self.snapshot: Snapshot | None = None
        """The last that `Batcher.ask` was answered."""
        self._over: queue.SimpleQueue[Outcome | Snapshot | DeviceError] = queue.SimpleQueue()

    def completed(self, timeout: float) -> list[Outcome]:
        """What is over and was not answered before; waits up to `timeout` seconds for one, or for a snapshot.

        A snapshot that it takes in lacks nothing that was answered by then or is now. Raises DeviceError.
        """
        found = []
        with suppress(queue.Empty):
            found.append(self._over.get(timeout=timeout))
            time.sleep(GATHER)
            while True:
                found.append(self._over.get_nowait())
        outcomes = [each for each in found if isinstance(each, Outcome)]
        for snapshot in (each for each in found if isinstance(each, dict)):
            self.snapshot = snapshot
        for error in (each for each in found if isinstance(each, DeviceError)):
            if not outcomes:
                raise error
            self._over.put(error)  # what was over before still counts
        return outcomes

    def reached(self) -> int:
        """The step that every row has come to, or was over before."""
        running = self.steps[~self.over]
        return int(running.min() if len(running) else self.steps.max())

    def losses(self, step: int) -> np.ndarray:
        """Each row's loss before its step `step`, [rows]; or its last if it is over, or NaN if it has none."""
        return np.array([self.loss(number, step) for number in range(len(self.searches))], np.float32)

    def loss(self, number: int, step: int) -> float:
        """One row's, as `losses` has it."""
        trace = _joined(self.searches[number].loss)[: step + 1]
        return float(trace[-1]) if len(trace) else math.nan

    def cancel(self) -> None:
        """Drop what is not over, at the next block."""
        self.cancelled = True
        self._cancels.set()

    def complete(self, outcome: "Outcome | Snapshot | DeviceError") -> None:
        if isinstance(outcome, Outcome):
            self.over[outcome.number] = True
        self._over.put(outcome)


def _joined(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """A trace from its pieces, of which there may be none."""
    return np.concatenate([*pieces, np.empty(0, np.float32)])


def as_frame(x: Tensor) -> Tensor:
    """Pixels in [0, 1] as bytes."""
    return (x * 255).round().to(torch.uint8)
