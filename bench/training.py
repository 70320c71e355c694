"""Training images a second against a plain PyTorch loop, interleaved in one run on the same network and machine.

    python -m bench.training [--device cpu|cuda] [--architecture resnet18] [--size 224] [--attack-steps 7]

The plain loop is how robust training is usually written: fp32, the default memory layout, the mean loss through
autograd, weights that require gradients while the attack runs, and the loss read after each step. Both have the same
recipe, and take the last iterate of the attack. `data_wait` is the share of time in which the engine had no data.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from workers.engine import models
from workers.engine.datasets import Images
from workers.engine.seeding import generator
from workers.engine.sources import Memory
from workers.engine.trainer import Trainer
from workers.engine.training_config import Config


class Augmented(Dataset[tuple[Tensor, int]]):
    """Images one by one, through torchvision's transforms."""

    def __init__(self, images: Images) -> None:
        self.pixels, self.labels = images.pixels.permute(0, 2, 3, 1).numpy(), images.labels.tolist()
        size = images.pixels.shape[-1]
        steps = [transforms.ToPILImage(), transforms.RandomCrop(size, 4), transforms.RandomHorizontalFlip()]
        self.transform = transforms.Compose([*steps, transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.pixels[i]), self.labels[i]


class Plain:
    """The plain loop, a step a call."""

    def __init__(self, config: Config, images: Images, device: str, workers: int) -> None:
        self.config, self.device = config, device
        self.model = models.build(config.architecture).to(memory_format=torch.contiguous_format).to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), config.lr, config.momentum, weight_decay=5e-4)
        loader = DataLoader(
            Augmented(images), config.batch_size, shuffle=True, drop_last=True, num_workers=workers,
            pin_memory=device == "cuda", persistent_workers=workers > 0,
        )  # fmt: skip
        self.batches = self._forever(loader)

    def _forever(self, loader: DataLoader[tuple[Tensor, int]]) -> Iterator[list[Tensor]]:
        while True:
            yield from loader

    def attack(self, x0: Tensor, y: Tensor) -> Tensor:
        c, x = self.config, x0
        noise = torch.randn_like(x)
        x = torch.clamp(x + c.epsilon * noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1), 0, 1)
        for _ in range(c.attack_steps):
            x = x.clone().detach().requires_grad_(True)
            (g,) = torch.autograd.grad(F.cross_entropy(self.model(x), y), [x])
            with torch.no_grad():
                x = x + c.attack_step_size * g / (g.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-10)
                x = torch.clamp(x0 + (x - x0).renorm(p=2, dim=0, maxnorm=c.epsilon), 0, 1)
        return x.detach()

    def step(self) -> float:
        x, y = (t.to(self.device, non_blocking=True) for t in next(self.batches))
        self.model.eval()
        x = self.attack(x, y) if self.config.epsilon else x
        self.model.train()
        loss = F.cross_entropy(self.model(x), y)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        return loss.item()


class Engine:
    """Our trainer, a step a call; the host reads nothing."""

    def __init__(self, config: Config, images: Images, device: str) -> None:
        self.trainer, self.waited = Trainer(config, Memory(images, "cifar"), device), 0.0
        self.batches = self.trainer.batches()

    def step(self) -> Tensor:
        start = time.perf_counter()
        batch = next(self.batches)
        self.waited += time.perf_counter() - start
        return self.trainer.update(*batch)


def seconds(step: Callable[[], object], steps: int, device: str) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    defaults = {"architecture": "cifar-resnet-small", "size": 0, "batch-size": 128, "attack-steps": 2, "epsilon": 1.0,
                "steps": 3, "rounds": 5, "workers": (os.cpu_count() or 1) - 1}  # fmt: skip
    for flag, value in defaults.items():
        parser.add_argument("--" + flag, type=type(value), default=value)
    a = parser.parse_args()
    size, n = a.size or models.ARCHITECTURES[a.architecture].size, max(4 * a.batch_size, 1024)
    images = Images(torch.randint(0, 256, (n, 3, size, size), generator=generator(0), dtype=torch.uint8),
                    torch.randint(0, 10, (n,), generator=generator(1)))  # fmt: skip
    config = Config(architecture=a.architecture, batch_size=a.batch_size, epsilon=a.epsilon, lr=1e-3,
                    attack_steps=a.attack_steps, schedule="constant", epochs=1_000_000)  # fmt: skip
    engines = {p: Engine(replace(config, precision=p), images, a.device) for p in ("fp32", "bf16")}
    loops: dict[str, Engine | Plain] = {"plain": Plain(config, images, a.device, a.workers), **engines}
    times: dict[str, list[float]] = {name: [] for name in loops}
    for loop in loops.values():
        seconds(loop.step, 2, a.device)
    for engine in engines.values():
        engine.waited = 0
    for _ in range(a.rounds):
        for name, loop in loops.items():
            times[name].append(seconds(loop.step, a.steps, a.device))
    rates = {name: a.steps * a.batch_size / median(values) for name, values in times.items()}
    recipe = vars(a) | {"size": size}
    del recipe["device"]
    print(json.dumps({
        "device": torch.cuda.get_device_name() if a.device == "cuda" else f"cpu {platform.machine()}",
        "torch": torch.__version__, "threads": torch.get_num_threads(), **recipe,
        "images_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "engine_over_plain": {name: round(rates[name] / rates["plain"], 2) for name in engines},
        "data_wait": {name: round(engine.waited / sum(times[name]), 4) for name, engine in engines.items()},
    }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
