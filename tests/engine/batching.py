"""What the tests of the batcher share: a small network's program, its rows, marked images, and runs to the end."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.engine.networks import pixels, small
from workers.engine.batcher import Batcher
from workers.engine.lanes import Program
from workers.engine.pgd import Function
from workers.engine.rows import Outcome, Row, Ticket

SIZE, K, N = 12, 8, 16
NET = small()
MARK = 0.123456
"""The value of a marked image's first pixel, which `unmoved` keeps where it is."""


def represent(x: Tensor) -> Tensor:
    return NET.represent(x)


def unmoved(x: Tensor) -> Tensor:
    """R of x without its first pixel, so that no step moves that one."""
    mask = torch.ones_like(x[:1])
    mask[:, 0, 0, 0] = 0
    return NET.represent(x * mask)


STARTS = pixels(1, N)
AIMS = represent(pixels(2, N)).detach()
DIRECTIONS = torch.eye(K) + 0.3
"""For activation: mostly coordinate i, and some of all, since one alone may be dead and have no gradient."""


def marked(i: int) -> Tensor:
    x = STARTS[i].clone()
    x[0, 0, 0] = MARK
    return x


def is_marked(x_NCHW: Tensor) -> Tensor:
    return x_NCHW[:, 0, 0, 0] == torch.tensor(MARK)


def program(f: Function = represent, key: str = "small", **options: Any) -> Program:
    return Program(key, f, (3, SIZE, SIZE), K, torch.device("cpu"), **options)


def inverting(i: int, steps: int = 8, x: Tensor | None = None, **options: Any) -> Row:
    """From start i, or x, to the representation of another image."""
    x = STARTS[i] if x is None else x
    asked: dict[str, Any] = {"x": x, "x0": x, "aim": AIMS[i], "inverts": True, "eps": 1000.0, "step_size": 0.1}
    return Row(**asked | options, steps=steps)


def maximising(i: int, steps: int = 8, **options: Any) -> Row:
    """Along direction i of the representation, from start i."""
    along: dict[str, Any] = {"aim": DIRECTIONS[i % K], "inverts": False}
    return inverting(i, steps, **along | options)


def finish(batcher: Batcher, most: int = 1000) -> int:
    """Blocks until nothing is left; too many are an endless loop."""
    for blocks in range(most):
        if not batcher.step():
            return blocks
    raise AssertionError(f"not over after {most} blocks")


def outcomes(ticket: Ticket) -> dict[int, Outcome]:
    found = ticket.completed(0)
    by_number = {outcome.number: outcome for outcome in found}
    assert len(by_number) == len(found)
    return by_number


def run(rows: Sequence[Row], of: Program | None = None, **options: Any) -> dict[int, Outcome]:
    """What comes of rows that nobody else shares a batch with."""
    batcher = Batcher(**options)
    ticket = batcher.submit(of or program(), rows)
    finish(batcher)
    found = outcomes(ticket)
    assert sorted(found) == list(range(len(rows)))
    return found


def running(batcher: Batcher) -> Counter[str]:
    """Rows on the device, by tenant."""
    lanes = [place.lane for place in batcher.places.values()]
    return Counter(search.ticket.tenant for lane in lanes for search in lane.searches)


def same(one: Outcome, other: Outcome) -> bool:
    """Whether two outcomes are bitwise the same, traces and frames included."""
    tensors = [(o.x, o.loss, o.grad_norm, o.frames) for o in (one, other)]
    equal = all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))
    return equal and (one.frame_steps, one.error) == (other.frame_steps, other.error)


class Recorder:
    """f, and how many rows each of its batches had; the blank images that a lane measures with do not count."""

    def __init__(self, f: Function = represent) -> None:
        self.f, self.rows = f, list[int]()

    def __call__(self, x: Tensor) -> Tensor:
        if x.any():
            self.rows.append(len(x))
        return self.f(x)
