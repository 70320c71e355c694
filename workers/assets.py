"""Makes the shipped assets: a model from a training checkpoint, a data set from CIFAR-10's test images.

    python -m workers.assets model --checkpoint runs/robust/checkpoint.pt --data DIR --name cifar10-robust \\
        --twin cifar10-standard --command "python -m workers.engine.train ..."
    python -m workers.assets dataset --data DIR
"""

import csv
import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from safetensors.torch import save_file

from service import catalog
from service.settings import Settings
from workers.engine import datasets, layers, models
from workers.engine.ema import final_weights
from workers.engine.evaluate import correct

app = typer.Typer(help=__doc__)
CATALOG = Path(catalog.__file__).with_name("architectures.json")
LARGER = 32
"""Pixels by which an image is larger that shows whether a network takes one."""
ASSETS: Path = Settings.model_fields["assets_dir"].default
CIFAR10 = "CIFAR-10 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009)"
Data = Annotated[Path, typer.Option(help="Folder with CIFAR-10")]


def accuracy(model: models.Network, test: datasets.Images, epsilon: float) -> float:
    """Fraction of `test` classified correctly, clean or after PGD-20 of radius `epsilon`."""
    return round(correct(model, test, epsilon, 20).double().mean().item(), 4)


def card(
    saved: dict[str, Any], name: str, command: str, data: Path, epsilon: float, **others: str | None
) -> dict[str, Any]:
    """What a user of the model needs to know; the accuracies are measured here."""
    config = saved["config"]
    architecture = models.ARCHITECTURES[config["architecture"]]
    weights = final_weights(saved)
    model = models.load(config["architecture"], weights)
    test = datasets.load_cifar10(data, train=False)
    robust = config["epsilon"] > 0
    how = (
        f"adversarially, L2 radius {config['epsilon']:g}, PGD-{config['attack_steps']}" if robust else "on clean images"
    )
    return {
        "name": name,
        "title": f"{config['architecture']} trained on CIFAR-10 {how}",
        "architecture": config["architecture"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "input_size": architecture.size,
        "features": architecture.features,
        "layers": layers.shapes(model, architecture.size),
        "classes": list(datasets.CIFAR_CLASSES),
        "mean": models.CIFAR_MEAN,
        "std": models.CIFAR_STD,
        **others,
        "epsilon": config["epsilon"],
        "training_data": f"{CIFAR10}, 50,000 training images, random crop with padding 4 and mirroring",
        "recipe": config,
        "epochs_trained": saved["epoch"],
        "command": command,
        "test_images": len(test),
        "clean_accuracy": accuracy(model, test, 0),
        "pgd20_accuracy": accuracy(model, test, epsilon),
        "pgd20_epsilon": epsilon,
        "pgd20_attack": "L2 PGD, 20 steps of 2.5 epsilon / 20, "
        "one random start drawn for each image, log-odds, any iterate, fp32",
        "digest": models.digest(weights),
        "licence": "Apache-2.0",
    }


def to_json(content: dict[str, Any]) -> str:
    """Indented JSON with each list of whole numbers, such as a layer's shape, on one line."""
    text = json.dumps(content, indent=2)
    return re.sub(r"\[\s+(\d+(?:,\s+\d+)*)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)


@app.command("model")
def export_model(
    checkpoint: Annotated[Path, typer.Option()],
    data: Data,
    name: Annotated[str, typer.Option()],
    twin: Annotated[str, typer.Option(help="The model to compare this one with")],
    command: Annotated[str, typer.Option(help="How the checkpoint was trained, for the card")],
    judge: Annotated[str | None, typer.Option(help="The model that judges this one's results")] = None,
    epsilon: Annotated[float, typer.Option(help="L2 radius of the evaluation attack")] = 1.0,
    assets: Path = ASSETS,
) -> None:
    """Write NAME's weights and its card, with accuracies on all test images."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    folder = assets / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in final_weights(saved).items()}, folder / "model.safetensors")
    text = to_json(card(saved, name, command, data, epsilon, twin=twin, judge=judge))
    (folder / "card.json").write_text(text + "\n")
    typer.echo(text)


@app.command("dataset")
def export_dataset(data: Data, name: str = "cifar10-sample", per_class: int = 40, assets: Path = ASSETS) -> None:
    """Write the first PER_CLASS lossless test images of each class, the classes taking turns."""
    test = datasets.load_cifar10(data, train=False)
    labels = test.labels.numpy()
    with np.load(data / "cifar10_test.npz") as f:
        lossless = f["lossless"] if "lossless" in f else np.ones(len(labels), bool)
    by_class = [np.flatnonzero((labels == c) & lossless)[:per_class] for c in range(len(datasets.CIFAR_CLASSES))]
    chosen = np.stack(by_class, axis=1).ravel()
    images = test.pixels.numpy().transpose(0, 2, 3, 1)[chosen]
    folder = assets / "datasets" / name
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "images.npz", images=images, labels=labels[chosen], test_index=chosen)
    about = {
        "name": name,
        "title": f"{len(chosen)} test images of CIFAR-10, {per_class} of each class, the classes in turn",
        "size": len(chosen),
        "image_size": images.shape[1],
        "classes": list(datasets.CIFAR_CLASSES),
        "digest": hashlib.sha256(images.tobytes() + labels[chosen].tobytes()).hexdigest(),
        "source": f"{CIFAR10}; test_index in images.npz is each image's place in the test set",
        "licence": "CIFAR-10 is published for research without a stated licence",
    }
    (folder / "card.json").write_text(json.dumps(about, indent=2) + "\n")
    typer.echo(json.dumps(about, indent=2))


@app.command("architectures")
def export_architectures(file: Path = CATALOG) -> None:
    """Write what the service, which imports no torch, knows of the architectures."""
    lines = [f"  {json.dumps(name)}: {json.dumps(described(name))}" for name in models.architectures()]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def described(name: str) -> dict[str, Any]:
    """An architecture as the service lists it."""
    a = models.find(name)
    about = {"input_size": a.size, "features": a.features, "identity_relu": a.has_last_relu}
    return about | {"fixed_size": True} if is_fixed(a) else about


@torch.no_grad()
def is_fixed(a: models.Architecture) -> bool:
    """Whether it takes images of its own size only: it is tried on larger ones, without memory or arithmetic."""
    with models.unallocated():
        network = a.make(a.classes)
    try:
        network.to("meta").eval()(torch.empty(1, 3, a.size + LARGER, a.size + LARGER, device="meta"))
    except (AssertionError, RuntimeError):
        return True
    return False


@app.command("natural")
def export_natural(
    folder: Annotated[Path, typer.Option(help="Folder with PNG files and labels.csv: file, name, author, license")],
    files: Annotated[list[str], typer.Argument(help="Which of them")],
    name: str = "natural-sample",
    size: int = 128,
    assets: Path = ASSETS,
) -> None:
    """Write photographs of things that CIFAR-10 has no class for, with their authors."""
    with (folder / "labels.csv").open(newline="") as f:
        about = {row["file"]: row for row in csv.DictReader(f)}
    rows = [about[file] for file in files]
    classes = sorted({row["name"].replace("_", " ") for row in rows})
    labels = np.array([classes.index(row["name"].replace("_", " ")) for row in rows])
    pictures = [
        Image.open(folder / row["file"]).convert("RGB").resize((size, size), Image.Resampling.LANCZOS) for row in rows
    ]
    images = np.stack([np.asarray(picture) for picture in pictures])
    out = assets / "datasets" / name
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / "images.npz", images=images, labels=labels)
    card = {
        "name": name,
        "title": f"{len(rows)} photographs of things that CIFAR-10 has no class for",
        "size": len(rows),
        "image_size": size,
        "classes": classes,
        "digest": hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
        "source": "NIPS 2017 adversarial competition, development set; reduced to the size here",
        "licence": "CC BY 2.0, by the authors below",
        "images": [{"label": row["name"].replace("_", " "), "author": unescaped(row["author"])} for row in rows],
    }
    (out / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def unescaped(text: str) -> str:
    """UTF-8 from backslash and octal digits."""
    return re.sub(rb"\\(\d{3})", lambda m: bytes([int(m[1], 8)]), text.encode()).decode()


if __name__ == "__main__":
    app()
