"""Standard (paper, equation 2) and robust (equation 3) training, resumable after a kill.

    python -m workers.engine.train --data DIR --out runs/robust --epsilon 1 --epochs 24 --precision bf16

All randomness is drawn from (seed, epoch) and (seed, step), so a resumed run takes the steps of an unbroken one.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.engine import datasets, models
from workers.engine.attacks import attack
from workers.engine.evaluate import correct
from workers.engine.progress import Progress
from workers.engine.seeding import generator

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Config:
    """A training recipe. Radii and step sizes are L2, in pixel units; epsilon 0 is standard training.

    The one-cycle schedule takes the learning rate up to `lr` and down to 0, and momentum down by 0.1 and up again.
    """

    architecture: str = "cifar-resnet-small"
    epsilon: float = 1.0
    attack_steps: int = 2
    attack_step_size: float = 0.75
    epochs: int = 24
    batch_size: int = 128
    lr: float = 0.2
    momentum: float = 0.95
    weight_decay: float = 5e-4
    seed: int = 0
    precision: str = "fp32"


class Trainer:
    """The model, its optimiser and schedule, and where they stand."""

    def __init__(self, config: Config, train: datasets.Images, device: str) -> None:
        self.config, self.train, self.device = config, train, device
        self.step, self.steps_per_epoch = 0, len(train) // config.batch_size
        if not self.steps_per_epoch:
            raise ValueError(f"batch_size {config.batch_size} is more than the {len(train)} training images")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = models.build(config.architecture).to(device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            config.lr,
            total_steps=self.steps_per_epoch * config.epochs,
            base_momentum=max(config.momentum - 0.1, 0),
            max_momentum=config.momentum,
        )

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch

    def logits(self, x: Tensor) -> Tensor:
        dtype = PRECISIONS[self.config.precision]
        with torch.autocast(self.device.split(":")[0], dtype, enabled=dtype is not torch.float32):
            return self.model(x).float()  # type: ignore[no-any-return]

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What is left of this epoch, augmented: x [N, 3, H, W] in [0, 1] and labels [N]."""
        c = self.config
        order = torch.randperm(len(self.train), generator=generator(c.seed, 0, self.epoch))
        for i in range(self.step % self.steps_per_epoch, self.steps_per_epoch):
            chosen = order[i * c.batch_size : (i + 1) * c.batch_size]
            pixels = datasets.crop_and_flip(self.train.pixels[chosen], generator(c.seed, 1, self.step))
            yield datasets.to_float(pixels.to(self.device)), self.train.labels[chosen].to(self.device)

    def update(self, x: Tensor, label: Tensor) -> Tensor:
        """One optimiser step on `x`, or on adversarial images near it; returns the mean loss."""
        c = self.config
        if c.epsilon:
            noise = torch.randn(x.shape, generator=generator(c.seed, 2, self.step)).to(self.device)
            self.model.eval()
            x = attack(self.logits, x, label, c.epsilon, c.attack_steps, c.attack_step_size, noise, best=False)
        self.model.train()
        loss = F.cross_entropy(self.logits(x), label)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        return loss.detach()

    def state(self) -> dict[str, Any]:
        return {
            "config": asdict(self.config), "epoch": self.epoch, "step": self.step, "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`. Raises ValueError if it was saved under another recipe."""
        if state["config"] != asdict(self.config):
            raise ValueError(f"the checkpoint was trained with {state['config']}, not {asdict(self.config)}")
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that a kill leaves the old one or the new one, never half of one."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def accuracies(model: nn.Module, test: datasets.Images, config: Config) -> dict[str, float]:
    """Clean and PGD-10 accuracy on `test`, for the log of a run."""
    model.eval()
    result = {"clean": correct(model, test, 0, 0).float().mean().item()}
    if config.epsilon:
        result["pgd10"] = correct(model, test, config.epsilon, 10).float().mean().item()
    return result


def run(trainer: Trainer, test: datasets.Images, out: Path, checkpoint_seconds: float = 120) -> None:
    """Train to the last epoch, writing `out`/checkpoint.pt and a line an epoch to `out`/log.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "checkpoint.pt"
    if path.exists():
        trainer.restore(torch.load(path, map_location=trainer.device, weights_only=True))
    saved = time.monotonic()
    while trainer.epoch < trainer.config.epochs:
        done = trainer.step % trainer.steps_per_epoch
        progress = Progress(f"epoch {trainer.epoch + 1}/{trainer.config.epochs}", trainer.steps_per_epoch, 30, done)
        for x, label in trainer.batches():
            loss = trainer.update(x, label)
            progress.advance(1, f"loss {loss:.3f}")
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss.item()} at step {trainer.step}; the last checkpoint is kept"
                )
            if time.monotonic() - saved > checkpoint_seconds:
                save(trainer.state(), path)
                saved = time.monotonic()
        save(trainer.state(), path)
        line = {"epoch": trainer.epoch, "train_loss": loss.item(), **accuracies(trainer.model, test, trainer.config)}
        with (out / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the checkpoint and the log; resumed if there"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name, value in asdict(Config()).items():
        choices = {"architecture": list(models.ARCHITECTURES), "precision": list(PRECISIONS)}.get(name)
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value, choices=choices)
    args = vars(parser.parse_args())
    data, out, device = args.pop("data"), args.pop("out"), args.pop("device")
    test = datasets.load_cifar10(data, train=False)
    few = datasets.Images(test.pixels[:500].to(device), test.labels[:500].to(device))
    run(Trainer(Config(**args), datasets.load_cifar10(data, train=True), device), few, out)


if __name__ == "__main__":
    main()
