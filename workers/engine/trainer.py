"""Standard (paper, equation 2) and robust (equation 3) training, a step at a time.

All randomness is drawn from keys: the order of images from (seed, epoch), an image's augmentation from (seed, epoch,
index), an attack's start and the network's own draws, as of dropout, from (seed, step). So a checkpoint holds no
generator's state, and a resumed run takes the steps of an unbroken one.
"""

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.engine import models
from workers.engine.attacks import attack
from workers.engine.constraints import CONSTRAINTS
from workers.engine.datasets import to_float
from workers.engine.ema import Ema
from workers.engine.frozen import freeze
from workers.engine.parallel import World
from workers.engine.schedules import SCHEDULES
from workers.engine.seeding import generator
from workers.engine.sources import Source, ahead
from workers.engine.training_config import Config


class Trainer:
    """The network, its optimiser, and where they stand; `step` updates are done.

    `tally` [2] sums the batches' mean loss and accuracy on the images trained on, since the epoch began. Raises
    ValueError if the recipe and the source do not fit each other or the number of processes.
    """

    def __init__(self, config: Config, source: Source, device: str = "cpu", world: World | None = None) -> None:
        self.config, self.source, self.device, self.world = config, source, device, world or World()
        self.part = self.world.part(config.batch_size)
        self.step, self.steps_per_epoch = 0, len(source) // config.batch_size
        if not self.steps_per_epoch:
            raise ValueError(f"batch_size is {config.batch_size}; allowed: up to {len(source)}, the training images")
        self.history: list[dict[str, Any]] = []
        self.tally = torch.zeros(2, dtype=torch.float64, device=device)
        with self._seeded(config.seed):
            self.model = models.build(config.architecture, config.classes, config.mean, config.std).to(device)
        self.autocast = torch.bfloat16 if config.precision == "bf16" else None
        example = self.images(source.batch(torch.arange(2) % len(source), config.seed, 0))
        self._check_labels(example)
        self.attacked = freeze(self.model, example, self.autocast) if config.epsilon else None
        self.ema = Ema(self.model, config.ema) if config.ema else None
        self.parallel = self.world.wrap(self.model)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay, fused=True
        )

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.steps_per_epoch * self.config.epochs

    def batches(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        """What is left of the run, this process's share: x [n, 3, H, W] in [0, 1] and labels [n], on the device."""
        with closing(ahead(self._load, self._indices())) as loaded:
            for pixels, label in loaded:
                yield self.images(pixels), label.to(self.device, non_blocking=True)

    def images(self, pixels: Tensor) -> Tensor:
        """A source's pixels as the network takes them, on the device."""
        x = pixels.to(self.device, non_blocking=True)
        return x.contiguous(memory_format=torch.channels_last) if x.is_floating_point() else to_float(x)

    def _indices(self) -> Iterator[tuple[int, Tensor]]:
        size, order = self.config.batch_size, torch.empty(0)
        for step in range(self.step, self.steps):
            epoch, i = divmod(step, self.steps_per_epoch)
            if not i or not len(order):
                order = torch.randperm(len(self.source), generator=generator(self.config.seed, 0, epoch))
            yield epoch, order[i * size : (i + 1) * size][self.part]

    def _load(self, item: tuple[int, Tensor]) -> tuple[Tensor, Tensor]:
        epoch, indices = item
        pixels, label = self.source.batch(indices, self.config.seed, epoch), self.source.labels[indices]
        return (pixels.pin_memory(), label.pin_memory()) if self.device.startswith("cuda") else (pixels, label)

    def logits(self, network: nn.Module, x: Tensor) -> Tensor:
        if self.autocast is None:
            logits: Tensor = network(x)
            return logits
        with torch.autocast(self.device.split(":")[0], self.autocast):
            return network(x).float()  # type: ignore[no-any-return]

    def adversarial(self, x: Tensor, label: Tensor) -> Tensor:
        """Images within epsilon of `x` that the network, in eval mode, is likely to get wrong; `x` if epsilon is 0."""
        c, attacked = self.config, self.attacked
        if attacked is None:
            return x
        attacked.refresh()
        return attack(
            lambda z: self.logits(attacked, z), x, label, c.epsilon, c.attack_steps, c.attack_step_size,
            self._noise(x) if c.random_start else None, best=False, constraint=CONSTRAINTS[c.norm],
        )  # fmt: skip

    def _noise(self, x: Tensor) -> Tensor:
        """Standard normal, of x's shape: this process's share of what is drawn for the whole batch, on the device."""
        drawn = torch.Generator(self.device).manual_seed(_number(self.config.seed, 2, self.step))
        whole = torch.randn((self.config.batch_size, *x.shape[1:]), generator=drawn, device=self.device)
        return whole[self.part].contiguous(memory_format=torch.channels_last)

    def update(self, x: Tensor, label: Tensor) -> Tensor:
        """One optimiser step on `x`, or on adversarial images near it; returns the mean loss of this process."""
        c = self.config
        x = self.adversarial(x, label)
        group = self.optimizer.param_groups[0]
        group["lr"], group["momentum"] = SCHEDULES[c.schedule](c, self.step, self.steps_per_epoch)
        self.optimizer.zero_grad(set_to_none=True)
        with self._seeded(_number(c.seed, 3, self.step, self.world.rank)):
            logits = self.logits(self.parallel.train(), x)
        loss = F.cross_entropy(logits, label)
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.step += 1
        if self.ema:
            self.ema.update(self.model, self.step)
        loss = loss.detach()
        self.tally += torch.stack([loss, (logits.argmax(dim=1) == label).float().mean()])
        return loss

    def sound(self) -> bool:
        """Whether every weight and running statistic is finite."""
        floating = [value for value in self.model.state_dict().values() if value.is_floating_point()]
        return bool(torch.stack(torch._foreach_norm(floating, float("inf"))).isfinite().all())

    def weights(self) -> dict[str, Tensor]:
        """Those that the run would end with here: the moving average if one is kept."""
        return self.ema.state if self.ema else self.model.state_dict()

    def state(self) -> dict[str, Any]:
        """All that a later run needs to go on. Learning rates follow from the step, draws from seed and step."""
        return {
            "config": self.config.values(), "epoch": self.epoch, "step": self.step, "history": self.history,
            "tally": self.tally.cpu(), "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state if self.ema else None,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`. Raises ValueError if it was saved under another recipe."""
        if state["config"] != self.config.values():
            raise ValueError(f"the checkpoint was trained with {state['config']}, not {self.config.values()}")
        self.step, self.history = state["step"], list(state["history"])
        self.tally.copy_(state["tally"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.load(state["ema"])

    @torch.no_grad()
    def _check_labels(self, example: Tensor) -> None:
        classes = self.logits(self.model.eval(), example).shape[1]
        low, high = (bound.item() for bound in self.source.labels.aminmax())
        if low < 0 or high >= classes:
            raise ValueError(f"labels run from {low} to {high}; allowed: 0 to {classes - 1}, the network's classes")

    @contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        """torch's own generators seeded, and put back after it."""
        devices = [torch.device(self.device)] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            yield


def _number(*key: int) -> int:
    return generator(*key).initial_seed()
