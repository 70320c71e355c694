"""The loops that `bench` lets run against each other: the robustness library's, written anew, and the batcher."""

import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from workers.engine import models
from workers.engine.batcher import Batcher
from workers.engine.lanes import BLOCK, Program, tf32
from workers.engine.network import Network
from workers.engine.pgd import Function
from workers.engine.rows import Row

EPS, STEP_SIZE = 1000.0, 0.1
"""L2, pixel units: the radius of the paper's inversions, and a step that keeps 32 x 32 pixels from saturating."""


def network(architecture: str, device: torch.device) -> Network:
    """With random weights, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = models.build(architecture).state_dict()
    return models.load(architecture, state, device)


class Loop(Protocol):
    """A batch of searches on its way."""

    def advance(self, steps: int) -> None:
        """Make so many steps; they may still be running when this returns."""

    @property
    def x(self) -> Tensor:
        """Where the searches are, [N, C, H, W]."""


def library_step(
    network: Callable[[Tensor], Tensor], loss: Function, x: Tensor, x0: Tensor, eps: float, step_size: float
) -> Tensor:
    """A step of robustness' `Attacker.forward` (2019) under its L2 constraint; `loss` [N] is a custom one of x.

    The network runs before the custom loss does, which runs it again; the mean loss is differentiated through weights
    that require gradients; the ball is `renorm`'s, then the box.
    """
    x = x.clone().detach().requires_grad_(True)
    logits_NK = network(x)
    losses_N = loss(x)
    del logits_NK  # with its graph, it lives in the library until here
    (g,) = torch.autograd.grad(losses_N.mean(), [x])
    with torch.no_grad():
        x = x - step_size * g / (g.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-10)
        return torch.clamp(x0 + (x - x0).renorm(p=2, dim=0, maxnorm=eps), 0, 1)


class Library:
    """Inversion as the released notebook asks it of the library: ||R(x) - t|| / ||t||, identity in the last ReLU."""

    def __init__(self, network: Network, x: Tensor, target_NK: Tensor, tf32: bool = False) -> None:
        self.network, self.x0, self.target_NK, self.tf32 = network, x, target_NK, tf32
        self.x = x

    def advance(self, steps: int) -> None:
        with tf32(self.tf32):
            for _ in range(steps):
                self.x = library_step(self.network, self._loss, self.x, self.x0, EPS, STEP_SIZE)

    def _loss(self, x: Tensor) -> Tensor:
        r_NK = self.network.represent(x, self.network.has_last_relu)
        relative_N: Tensor = (r_NK - self.target_NK).norm(dim=1) / self.target_NK.norm(dim=1)
        return relative_N


class Engine:
    """The same searches in a batcher, by blocks of as many steps as are asked for."""

    def __init__(self, f: Function, x: Tensor, target_NK: Tensor, precision: str) -> None:
        channels, height, width = x.shape[1:]
        shape = channels, height, width
        program = Program("bench", f, shape, target_NK.shape[1], x.device, precision)
        self.batcher, self.n, self.made = Batcher(most=1 << (len(x) - 1).bit_length()), len(x), 0
        images, scales = x.cpu(), target_NK.norm(dim=1).tolist()
        self.ticket = self.batcher.submit(program, [
            Row(image, image, aim, True, EPS, STEP_SIZE, 10**9, scale)
            for image, aim, scale in zip(images, target_NK.cpu(), scales, strict=True)
        ])  # fmt: skip

    @property
    def x(self) -> Tensor:
        (place,) = self.batcher.places.values()
        return place.lane.images[0][: self.n]

    @property
    def graphs(self) -> bool:
        """Whether its steps are replayed from CUDA graphs."""
        (place,) = self.batcher.places.values()
        return bool(place.lane.graphs)

    def advance(self, steps: int) -> None:
        """Raises MemoryError if the batcher has found that fewer rows fit, RuntimeError if a search has ended."""
        wanted = self.made + steps
        while self.made < wanted:
            self.batcher.block = min(wanted - self.made, BLOCK)
            self.batcher.step()
            for outcome in self.ticket.completed(0):
                raise RuntimeError(outcome.error or "a search ended before its time")
            (place,) = self.batcher.places.values()
            if place.lane.count < self.n:
                raise MemoryError(f"{place.lane.capacity} of {self.n} rows fit")
            self.made = int(self.ticket.steps.min())


def clock(device: torch.device) -> float:
    """Seconds. On a CPU with one thread, those that this process had: the others on the machine do not stretch them."""
    return time.process_time() if own_time(device) else time.perf_counter()


def own_time(device: torch.device) -> bool:
    """Whether `clock` counts this process's own time."""
    return device.type == "cpu" and torch.get_num_threads() == 1


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Of a call and of what it has put on the device."""
    start = clock(device)
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock(device) - start
