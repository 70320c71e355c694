"""What an item costs a batcher, from few items to many, of one step each."""

from collections.abc import Sequence
from statistics import median

import torch

from workers.engine import models
from workers.engine.batcher import Batcher
from workers.engine.bench_loops import EPS, STEP_SIZE, clock, network
from workers.engine.descent import descent
from workers.engine.lanes import Program
from workers.engine.pgd import Function
from workers.engine.rows import Row, Ticket
from workers.engine.seeding import generator

SMALL = "cifar-resnet-small"
MOST_WAITING, AT_ONCE = 2048, 256
"""Rows that a batcher holds, and that are handed in together."""
MOST_OF_NETWORK = 10_000
"""Items that the CIFAR network, which takes a thousand times as long, is asked for at most."""


def per_item(batcher: Batcher, program: Program, row: Row, count: int) -> float:
    """Seconds an item of `count` rows, handed in while others end, so that few of them are there at a time."""
    left: dict[Ticket, int] = {}
    handed = over = 0
    start = clock(program.device)
    while over < count:
        while handed < count and handed - over < MOST_WAITING:
            n = min(AT_ONCE, count - handed)
            left[batcher.submit(program, [row] * n)] = n
            handed += n
        batcher.step()
        for ticket in list(left):
            done = len(ticket.completed(0))
            over, left[ticket] = over + done, left[ticket] - done
            if not left[ticket]:
                del left[ticket]
    return (clock(program.device) - start) / count


def item_costs(f: Function, features: int, device: torch.device, counts: Sequence[int]) -> dict[int, float]:
    """Microseconds an item of one step, 32 pixels square, by their count; few items are counted several times."""
    program, image = Program("items", f, (3, 32, 32), features, device), torch.rand(3, 32, 32, generator=generator(0))
    row, batcher = Row(image, image, torch.zeros(features), True, EPS, STEP_SIZE, steps=1), Batcher()
    per_item(batcher, program, row, min(AT_ONCE, max(counts)))  # the lane, its buffers and its kernels
    return {
        n: 1e6 * median(per_item(batcher, program, row, n) for _ in range(min(max(3000 // n, 1), 20))) for n in counts
    }


def items(device: torch.device, counts: Sequence[int]) -> dict[str, dict[int, float]]:
    """What an item costs where nothing is computed, and with the CIFAR network."""
    net, features = network(SMALL, device), models.find(SMALL).features
    f = descent(net, "penultimate", True, "mean", "fp32", 32)
    few = [n for n in counts if n <= MOST_OF_NETWORK]
    nothing = item_costs(lambda x: x.flatten(1)[:, :features], features, device, counts)
    return {"nothing": nothing, SMALL: item_costs(f, features, device, few)}
