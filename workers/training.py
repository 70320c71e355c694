"""A training run as a process: started by the worker, alone or by torchrun, in a folder with job.json.

    python -m workers.training FOLDER
    torchrun --nnodes=2 --node-rank=1 --nproc-per-node=8 --master-addr=HOST --master-port=29500 -m workers.training

The second is for the other nodes of a training on several: the worker's own, whose node rank is 0, tells them the job.
A run goes on from FOLDER/checkpoint.pt if that is there, and keeps it up to date. What happens is written to
FOLDER/events.jsonl, an object a line; at the end there are model.safetensors and result.json. SIGTERM stops it at a
checkpoint. It ends by itself once the worker is gone.
"""

import ctypes
import json
import platform
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from service.cards import DatasetCard
from service.catalog import Dataset
from service.data.opening import open_dataset
from service.evaluation import selection
from service.settings import Settings
from service.storage import ObjectNotFound, open_storage
from service.training import TrainingParameters
from workers.engine import layers, models, parallel
from workers.engine.attacks import Attack
from workers.engine.datasets import Images
from workers.engine.evaluate import evaluate
from workers.engine.outcomes import Outcome, summarise
from workers.engine.parallel import World
from workers.engine.sources import Decoded, Memory, Source
from workers.engine.train import Observer, run
from workers.engine.trainer import Trainer
from workers.engine.training_config import Config
from workers.patience import is_disk
from workers.recipes.following import lives
from workers.recipes.reading import at_once, read_pixels
from workers.runtime import give_way, pick_device

CHUNK = 500
"""Validation images held in memory at once, and so many for the accuracies after each epoch."""
PR_SET_PDEATHSIG = 1
USUAL = {"l2": (0.5, 3.0), "linf": (8 / 255, 4 / 255)}
"""Radii at which networks trained on clean images are attacked for their cards, up to 64 pixels and beyond."""
RENAMED = {"epsilon": "eps", "size": "input_size"}
"""Fields of a recipe that requests call by other names."""


class Stopped(Exception):  # noqa: N818 - what happened
    """The worker asked for an end, or is gone."""


class Told(Observer):
    """Writes events; asked to stop by SIGTERM, or by the worker's end, where there is one on this node."""

    def __init__(self, folder: Path, worker: int | None) -> None:
        self.events, self.worker, self.asked, self.step = folder / "events.jsonl", worker, False, 0
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True

    def tell(self, event: str, **values: Any) -> None:
        with self.events.open("a") as file:
            file.write(json.dumps({"event": event, **values}) + "\n")

    def progress(self, step: int, steps: int, loss: float, images_per_second: float) -> None:  # noqa: ARG002
        self.step = step
        self.tell("progress", step=step, loss=loss)

    def measuring(self) -> None:
        self.tell("measuring")

    def epoch(self, metrics: dict[str, Any]) -> None:
        self.tell("epoch", epoch=metrics["epoch"], metrics={n: v for n, v in metrics.items() if n != "epoch"})

    def checkpoint(self, path: Path) -> None:  # noqa: ARG002
        self.tell("checkpoint", step=self.step)  # a run tells of its progress before it writes

    def should_stop(self) -> bool:
        return self.asked or (self.worker is not None and not lives(self.worker))


def recipe(p: TrainingParameters) -> Config:
    """The engine's recipe of a job's parameters."""
    given = p.model_dump()
    names = {name: RENAMED.get(name, name) for name in Config().values()}
    return Config.of(
        {name: given[theirs] for name, theirs in names.items() if theirs in given} | {"classes": len(p.classes)}
    )


def source(dataset: Dataset, p: TrainingParameters) -> Source:
    """Images in memory where they are there already and as large as the network's, else decoded one by one."""
    labels = torch.from_numpy(np.asarray(dataset.labels, np.int64))
    pixels = getattr(dataset, "images", None)
    if pixels is not None and p.augmentation != "imagenet" and pixels.shape[1:3] == (p.input_size, p.input_size):
        return Memory(Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels), p.augmentation)

    def read(index: int) -> Any:
        try:
            return dataset.image(index)
        except (ObjectNotFound, OSError, ValueError) as e:
            if is_disk(e):
                raise
            raise ValueError(f"image {index} of {dataset.card.name} cannot be read: {e}") from e

    return Decoded(read, labels, p.augmentation, p.input_size)


def drawn(dataset: Dataset, p: TrainingParameters, most: int | None) -> list[int]:
    """So many of the validation images at most, in order."""
    size = dataset.card.size
    return selection(size, min(most or size, p.evaluation_images or size), p.seed)


def held_out(dataset: Dataset, places: list[int], p: TrainingParameters) -> tuple[list[int], Images]:
    """Validation images cut and scaled as on ImageNet, and their places: without those that cannot be read."""
    pixels, places = read_pixels(dataset, places, p.input_size, "imagenet")
    return places, Images(pixels, torch.tensor([int(dataset.labels[i]) for i in places], dtype=torch.int64))


def evaluated(
    network: models.Network, dataset: Dataset, p: TrainingParameters, device: str, alive: Callable[[], None]
) -> dict[str, Any]:
    """Clean and PGD-20 accuracy of the finished network. `alive` is called on the way, and may raise to stop.

    Raises FloatingPointError for logits that are not finite.
    """
    eps = p.eps or USUAL[p.norm][p.input_size > 64]
    attacks, outcomes, chosen = [Attack("pgd", p.norm, eps, 20)], list[Outcome](), drawn(dataset, p, None)
    batch = at_once(p.input_size, device)
    for start in range(0, len(chosen), CHUNK):
        places, some = held_out(dataset, chosen[start : start + CHUNK], p)
        if places:
            x, labels = some.pixels.to(device), some.labels.to(device)
            outcomes.append(evaluate(network, x, labels, attacks, places, p.seed, batch, observe=lambda *_: alive()))
    summary = summarise(outcomes, attacks, p.classes) if outcomes else {}
    return summary | {"missing": len(chosen) - summary["images"]} if summary else {}


def card(p: TrainingParameters, network: models.Network, digest: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a user of the network needs to know."""
    how = f"adversarially, {p.norm} radius {p.eps:g}, PGD-{p.attack_steps}" if p.eps else "on clean images"
    shapes = layers.shapes(network, p.input_size)
    found = {
        "title": f"{p.architecture} trained on {p.dataset} {how}", "architecture": p.architecture,
        "parameters": sum(value.numel() for value in network.parameters()), "input_size": p.input_size,
        "features": shapes["penultimate"][0], "layers": shapes, "classes": p.classes,
        "mean": network.mean.flatten().tolist(), "std": network.std.flatten().tolist(),
        "identity_relu": network.has_last_relu, "twin": p.twin, "judge": p.judge, "epsilon": p.eps, "norm": p.norm,
        "training_data": p.dataset, "recipe": p.model_dump(mode="json", exclude={"classes", "mean", "std"}),
        "epochs_trained": p.epochs, "digest": digest,
    }  # fmt: skip
    if summary:
        attack = summary["attacks"][0]
        found |= {
            "test_images": summary["images"], "clean_accuracy": summary["clean"]["accuracy"],
            "pgd20_accuracy": attack["accuracy"], "pgd20_epsilon": attack["eps"],
            "pgd20_attack": f"{p.norm} PGD, 20 steps of 2.5 epsilon / 20, random start, log-odds, any iterate",
        }  # fmt: skip
    return found


def finish(trainer: Trainer, p: TrainingParameters, validation: Dataset | None, told: Told, folder: Path) -> None:
    """Measure the finished network and write it down."""

    def alive() -> None:
        if told.should_stop():
            raise Stopped
        told.measuring()

    state: dict[str, Tensor] = {name: value.cpu().contiguous() for name, value in trainer.weights().items()}
    digest, device = models.digest(state), trainer.device
    network = models.load(p.architecture, state, device)
    summary = evaluated(network, validation, p, device, alive) if validation else {}
    save_file(state, folder / "model.safetensors")
    last = trainer.history[-1]
    metrics = {name: last[name] for name in ("train_loss", "train_accuracy")}
    about = card(p, network, digest, summary)
    metrics |= {name: about[name] for name in ("clean_accuracy", "pgd20_accuracy") if name in about}
    hardware = torch.cuda.get_device_name(device) if device.startswith("cuda") else f"cpu {platform.machine()}"
    provenance = {"torch_version": torch.__version__, "device": hardware, "processes": trainer.world.size}
    result = {"card": about, "metrics": metrics, "evaluation": summary, "provenance": provenance}
    (folder / "result.json").write_text(json.dumps(result))
    told.tell("done")


def die_with_parent() -> None:
    """Have the kernel kill this process once its parent is gone, also where it hangs in waiting for others."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    """The exit status: 0 for an end that was told of, be it that the loss diverged."""
    die_with_parent()
    settings = Settings()
    give_way(settings)
    world, device = parallel.join(str(pick_device(settings.device)))
    here = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    job = world.from_first(json.loads((here / "job.json").read_text()) if here and world.rank == 0 else None)
    if job is None:
        sys.exit("usage: python -m workers.training FOLDER; without it, only on a node whose rank is not 0")
    with ExitStack() as exits:
        folder = here or Path(exits.enter_context(TemporaryDirectory()))
        return train(job, folder, Told(folder, job["worker"] if here else None), settings, world, device)


def train(job: dict[str, Any], folder: Path, told: Told, settings: Settings, world: World, device: str) -> int:
    """Train as `job` says, and tell."""
    p, storage = TrainingParameters.model_validate(job["parameters"]), open_storage(settings)

    def opened(name: str) -> Dataset:
        about = job["datasets"][name]
        return open_dataset(DatasetCard.model_validate(about["card"]), about["location"], settings, storage)

    validation = opened(p.validation) if p.validation else None
    try:
        watched = held_out(validation, drawn(validation, p, CHUNK), p)[1] if validation and world.rank == 0 else None
        trainer = Trainer(recipe(p), source(opened(p.dataset), p), device, world)
        if not run(trainer, watched, folder, p.checkpoint_seconds, told):
            raise Stopped
        if world.rank == 0:
            finish(trainer, p, validation, told, folder)
    except Stopped:
        if world.rank == 0:
            told.tell("stopped")
    except FloatingPointError as e:
        if world.rank == 0:
            told.tell("diverged", detail=str(e))
    except (ValueError, AssertionError) as e:  # of the recipe, the network, or an image: the same again
        told.tell("failed", detail=str(e))
    finally:
        parallel.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
