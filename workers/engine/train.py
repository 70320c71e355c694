"""A training run: from a folder's checkpoint to the last epoch, through kills and requests to stop.

python -m workers.engine.train --data DIR --out runs/robust --epsilon 1 --epochs 24 --precision bf16
torchrun --nproc-per-node 8 -m workers.engine.train --data DIR --out runs/robust --preset cifar ...
"""

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from workers.engine import models, parallel
from workers.engine.constraints import CONSTRAINTS
from workers.engine.datasets import CIFAR_CLASSES, Images, load_cifar10
from workers.engine.evaluate import correct
from workers.engine.progress import Progress
from workers.engine.schedules import SCHEDULES
from workers.engine.sources import Memory
from workers.engine.trainer import Trainer
from workers.engine.training_config import PRECISIONS, PRESETS, Config


class Diverged(FloatingPointError):  # noqa: N818 - what happened
    """The loss, the weights or the logits are not finite after `step` updates."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(step, loss)
        self.step, self.loss = step, loss

    def __str__(self) -> str:
        what = "the weights or logits are not finite" if math.isfinite(self.loss) else f"the mean loss is {self.loss}"
        return f"{what} at step {self.step}; the last checkpoint is kept"


class Observer:
    """What a run tells, in the process of rank 0, and asks, in every process. Override what is of use."""

    def progress(self, step: int, steps: int, loss: float, images_per_second: float) -> None:
        """About once a second: `step` of `steps` are done; the mean loss of this epoch so far."""

    def epoch(self, metrics: dict[str, Any]) -> None:
        """An epoch is over, and its checkpoint written. A resumed run tells of its last one again."""

    def checkpoint(self, path: Path) -> None:
        """A checkpoint was written. The file is replaced by the next one, never written into."""

    def measuring(self) -> None:
        """An epoch's accuracies are being measured, which may take a while."""

    def should_stop(self) -> bool:
        return False


class Meter:
    """What this process did of an epoch: seconds, steps, and seconds waited for data."""

    def __init__(self) -> None:
        self.start, self.steps, self.waited = time.perf_counter(), 0, 0.0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start


class Run:
    """A trainer, its folder and its observer. Processes decide together, each with the same numbers at hand."""

    def __init__(
        self, trainer: Trainer, test: Images | None, out: Path, checkpoint_seconds: float, observer: Observer,
        check_seconds: float,
    ) -> None:  # fmt: skip
        self.trainer, self.test, self.out, self.observer = trainer, test, out, observer
        self.checkpoint_seconds, self.check_seconds = checkpoint_seconds, check_seconds
        self.path = out / "checkpoint.pt"
        self.meter, self.saved, self.next_check = Meter(), time.monotonic(), 0

    @property
    def first(self) -> bool:
        return self.trainer.world.rank == 0

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if there is one; rank 0 reads it for all."""
        trainer = self.trainer
        self.out.mkdir(parents=True, exist_ok=True)
        there = self.first and self.path.exists()
        state = torch.load(self.path, map_location="cpu", weights_only=True) if there else None
        state = trainer.world.from_first(state)
        if state is None:
            return
        trainer.restore(state)
        self._write_log()
        if self.first and trainer.history:
            self.observer.epoch(trainer.history[-1])

    def train(self) -> bool:
        """To the end, True; or to a checkpoint, False, because the observer asked for it."""
        trainer = self.trainer
        self.next_check = trainer.step + 1
        with closing(trainer.batches()) as batches:
            while True:
                waiting = time.perf_counter()
                batch = next(batches, None)
                self.meter.waited += time.perf_counter() - waiting
                if batch is None:
                    return True
                trainer.update(*batch)
                self.meter.steps += 1
                ended = trainer.step % trainer.steps_per_epoch == 0
                if (ended or trainer.step >= self.next_check) and self._check(ended) and trainer.step < trainer.steps:
                    return False

    def _check(self, ended: bool) -> bool:
        """Whether to stop here. Every process looks at once: at losses, clocks and requests. Raises Diverged."""
        t, meter = self.trainer, self.meter
        stop, due = self.observer.should_stop(), time.monotonic() - self.saved > self.checkpoint_seconds
        mine = torch.tensor([stop, due, meter.seconds / meter.steps], dtype=torch.float64, device=t.device)
        agreed = t.world.mean(torch.cat([t.tally, mine]))
        t.tally, (stops, dues, pace) = agreed[:2].clone(), agreed[2:].tolist()
        done = (t.step - 1) % t.steps_per_epoch + 1
        loss = t.tally[0].item() / done
        if not math.isfinite(loss):
            raise Diverged(t.step, loss)
        self.next_check = t.step + max(1, int(self.check_seconds / pace))
        if self.first:
            self.observer.progress(t.step, t.steps, loss, t.config.batch_size / pace)
        if ended:
            self._end_epoch(loss)
        elif stops or dues:
            self._save(loss)
        return bool(stops)

    def _end_epoch(self, loss: float) -> None:
        t, meter = self.trainer, self.meter
        images, seconds, group = meter.steps * t.config.batch_size, meter.seconds, t.optimizer.param_groups[0]
        metrics = {
            "epoch": t.epoch, "train_loss": loss, "train_accuracy": t.tally[1].item() / t.steps_per_epoch,
            "lr": group["lr"], "seconds": seconds, "images_per_second": images / seconds,
            "data_wait": meter.waited / seconds,
        }  # fmt: skip
        if self.first and self.test is not None and len(self.test):
            metrics |= self._measure(self.test, loss)
        t.history.append(metrics)
        t.tally.zero_()
        self._save(loss)
        self._write_log()
        if self.first:
            self.observer.epoch(metrics)
        self.meter = Meter()

    def _measure(self, test: Images, loss: float) -> dict[str, float]:
        try:
            return accuracies(self.trainer, test, self.observer.measuring)
        except FloatingPointError as e:  # the weights are finite still, the logits are not
            raise Diverged(self.trainer.step, loss) from e

    def _save(self, loss: float) -> None:
        if not self.trainer.sound():
            raise Diverged(self.trainer.step, loss)
        if self.first:
            save(self.trainer.state(), self.path)
            self.observer.checkpoint(self.path)
        self.saved = time.monotonic()

    def _write_log(self) -> None:
        if self.first:
            lines = [json.dumps(metrics) + "\n" for metrics in self.trainer.history]
            replace(self.out / "log.jsonl", lambda path: path.write_text("".join(lines)))


def run(
    trainer: Trainer, test: Images | None, out: Path, checkpoint_seconds: float = 120,
    observer: Observer | None = None, check_seconds: float = 1,
) -> bool:  # fmt: skip
    """Train to the last epoch, from `out`/checkpoint.pt if it is there; False if the observer stopped the run before.

    A checkpoint is written every `checkpoint_seconds`, after each epoch and on a stop; `out`/log.jsonl has a line an
    epoch. `test` is for its accuracies: a few hundred images, since training waits. The host looks at losses and at
    the observer every `check_seconds`, or once a step if a step takes longer. Raises Diverged; ValueError for a
    checkpoint of another recipe.
    """
    job = Run(trainer, test, out, checkpoint_seconds, observer or Observer(), check_seconds)
    job.resume()
    return job.train()


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that a kill leaves the old one or the new one, never half of one."""
    replace(path, lambda temporary: torch.save(state, temporary))


def replace(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_suffix(".tmp")
    write(temporary)
    temporary.replace(path)


def accuracies(trainer: Trainer, test: Images, measuring: Callable[[], None]) -> dict[str, float]:
    """Clean and PGD-10 accuracy on `test` of the weights that the run would end with, fp32.

    `measuring` is called before each forward. Raises FloatingPointError for logits that are not finite.
    """
    c, device, weights, model = trainer.config, trainer.device, trainer.weights(), trainer.model.eval()
    images = Images(test.pixels.to(device), test.labels.to(device))

    def f(x: Tensor) -> Tensor:
        measuring()
        logits: Tensor = functional_call(model, weights, (x,))
        return logits

    batch = max(1, c.batch_size // trainer.world.size)  # which fits into memory
    result = {"clean_accuracy": correct(f, images, 0, 0, batch=batch).float().mean().item()}
    if c.epsilon:
        result["pgd10_accuracy"] = correct(f, images, c.epsilon, 10, batch=batch, norm=c.norm).float().mean().item()
    return result


class Terminal(Observer):
    """Progress on standard error; stops at a SIGTERM."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.line, self.asked = trainer, Progress("", 1), False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True

    def progress(self, step: int, steps: int, loss: float, images_per_second: float) -> None:
        if self.line.total != steps:
            self.line = Progress("training", steps, 30, step - 1)
        note = f"epoch {self.trainer.epoch + 1}  loss {loss:.3f}  {images_per_second:.0f} images/s"
        self.line.advance(step - self.line.done, note)

    def should_stop(self) -> bool:
        return self.asked


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the checkpoint and the log; resumed if there"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--preset", choices=PRESETS, default="cifar-small", help="values of the flags left out")
    choices: dict[str, Any] = {
        "architecture": models.ARCHITECTURES, "norm": CONSTRAINTS, "schedule": SCHEDULES, "precision": PRECISIONS,
        "augmentation": ("none", "cifar"),
    }  # fmt: skip
    for name, value in Config().values().items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS)
        elif isinstance(value, tuple):
            parser.add_argument(flag, type=int, nargs="*", default=argparse.SUPPRESS)
        elif value is not None:  # the others follow from CIFAR-10
            parser.add_argument(flag, type=type(value), choices=choices.get(name), default=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """The exit status: 143 for a run that was stopped, and goes on at the same command."""
    args = vars(arguments())
    data, out, preset = args.pop("data"), args.pop("out"), args.pop("preset")
    world, device = parallel.join(args.pop("device"))
    cifar = {"classes": len(CIFAR_CLASSES), "mean": models.CIFAR_MEAN, "std": models.CIFAR_STD}
    config, test = Config.of(PRESETS[preset] | args | cifar), load_cifar10(data, train=False)
    try:
        source = Memory(load_cifar10(data, train=True), config.augmentation)
        trainer = Trainer(config, source, device, world)
        few = Images(test.pixels[:500], test.labels[:500])
        return 0 if run(trainer, few, out, observer=Terminal(trainer)) else 143
    finally:
        parallel.leave()


if __name__ == "__main__":
    sys.exit(main())
