"""A checkpoint loaded and tried in a process of its own, which may die of it: started by the worker in a folder.

    python -m workers.loading FOLDER

FOLDER/job.json says what to load and FOLDER/images.npz, if it is there, has labelled images to try it on. It leaves
model.safetensors and report.json, or an error in report.json. It has no credentials, and no network but for
torchvision's own weights.
"""

import json
import resource
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from workers.engine import checkpoints, models
from workers.engine.checkpoints import CheckpointError
from workers.engine.datasets import to_float
from workers.engine.inspection import Report, inspect
from workers.engine.statistics import wilson

MOST_MEMORY = 32 << 30
"""Bytes that the process may take: far above what any known network needs."""
UNLABELLED = 16
"""Images of noise for networks that no data set is named for: their logits must at least be finite."""


class Refused(ValueError):  # noqa: N818 - what happened
    """The checkpoint cannot become a model; the message says why."""


def published(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """torchvision's weights of a name: their file, downloaded unless it is there, and what is known of them."""
    from torchvision import models as zoo

    known, name = zoo.get_model_weights(job["architecture"]), job["weights"].partition(".")[2]
    if name not in known.__members__:
        raise Refused(f"torchvision has no weights {job['weights']}; allowed: {', '.join(map(str, known))}")
    weights = known[name]
    file = Path(job["weights_dir"] or Path(torch.hub.get_dir()) / "checkpoints") / Path(weights.url).name
    if not file.exists():
        try:
            torch.hub.download_url_to_file(weights.url, str(folder / file.name), _prefix(file.name), progress=False)
        except (OSError, RuntimeError) as e:
            raise Refused(f"{file} is not there, and {weights.url} cannot be downloaded: {e}") from e
        file = folder / file.name
    transforms = weights.transforms()
    return {
        "file": str(file), "classes": unique(weights.meta["categories"]), "input_size": published_size(str(weights)),
        "mean": list(transforms.mean), "std": list(transforms.std),
    }  # fmt: skip


def published_size(weights: str) -> int | None:
    """Pixels of a side that torchvision publishes weights for, which some have of their own; None if unknown."""
    from torchvision import models as zoo

    try:
        return int(zoo.get_weight(weights).transforms.keywords["crop_size"])
    except (ValueError, KeyError):
        return None


def _prefix(name: str) -> str:
    """The digest's beginning, which published files have in their names."""
    return Path(name).stem.rpartition("-")[2]


def unique(names: list[str]) -> list[str]:
    """Names told apart by their places: ImageNet calls two pairs of its classes the same."""
    often = Counter(names)
    return [f"{name} ({place})" if often[name] > 1 else name for place, name in enumerate(names)]


def load(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Load, check and try a network; answers the report. Raises Refused or CheckpointError."""
    about = published(job, folder) if "weights" in job else {"file": str(folder / "checkpoint")}
    chosen = about | {name: value for name, value in job.items() if value is not None}
    loaded = checkpoints.read(Path(about["file"]), None if job.get("format") in (None, "auto") else job["format"])
    architecture = chosen["architecture"]
    a = models.find(architecture)
    names = chosen.get("classes")
    matched = checkpoints.match(loaded, architecture, None, chosen.get("mean"), chosen.get("std"))
    if names is not None and len(names) != matched.classes:
        raise Refused(f"the network tells {matched.classes} classes apart, and {len(names)} are named")
    network = models.load(architecture, matched.state)
    size = chosen.get("input_size") or a.size
    report, n = tried(network, folder, size)
    check(report, n, chosen.get("least_accuracy"))
    save_file({name: value.contiguous() for name, value in matched.state.items()}, folder / "model.safetensors")
    return {
        "architecture": architecture, "input_size": size, "features": report.features, "layers": report.layers,
        "classes": names or [str(i) for i in range(matched.classes)], "parameters": report.parameters,
        "mean": network.mean.flatten().tolist(), "std": network.std.flatten().tolist(),
        "identity_relu": a.has_last_relu, "digest": models.digest(matched.state), "format": loaded.format,
        "notes": matched.notes, "sample_accuracy": report.accuracy,
        "alternatives": {each.name: each.accuracy for each in report.alternatives},
    }  # fmt: skip


def tried(network: models.Network, folder: Path, size: int) -> tuple[Report, int]:
    """The network on the sample of its data set, or on noise; and on how many images."""
    path = folder / "images.npz"
    if not path.exists():
        noise = torch.rand(UNLABELLED, 3, size, size, generator=torch.Generator().manual_seed(0))
        return inspect(network, noise), UNLABELLED
    with np.load(path, allow_pickle=False) as f:
        pixels: Tensor = torch.from_numpy(f["pixels"])
        return inspect(network, to_float(pixels), torch.from_numpy(f["labels"])), len(pixels)


def check(report: Report, n: int, least: float | None) -> None:
    """Raise Refused for a network that does not know its data set."""
    if report.error is not None:
        raise Refused(report.error)
    if report.accuracy is None:
        return
    if least is None and wilson(round(report.accuracy * n), n).low <= 1 / report.classes:
        raise Refused(
            f"{report.accuracy:.1%} of {n} images are right, no more than chance. Are the classes in another order, or"
            " is it another data set? With least_accuracy 0 it is registered all the same"
        )
    if least is not None and report.accuracy < least:
        raise Refused(f"{report.accuracy:.1%} of {n} images are right, less than least_accuracy, {least:.1%}")


def main() -> None:
    folder = Path(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    try:
        report = load(json.loads((folder / "job.json").read_text()), folder)
    except (Refused, CheckpointError, ValueError, KeyError, AssertionError) as e:  # networks assert their input's size
        report = {"error": str(e.args[0]) if isinstance(e, KeyError) else str(e)}
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
