"""Clean and adversarial accuracy of a classifier.

python -m workers.engine.evaluate --checkpoint runs/robust/checkpoint.pt --data DIR --epsilon 1
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from workers.engine import datasets, models
from workers.engine.attacks import attack
from workers.engine.pgd import Function
from workers.engine.progress import Progress


def correct(
    f: Function, images: datasets.Images, eps: float, steps: int, seed: int = 0, batch: int = 250, title: str = ""
) -> Tensor:
    """Whether each image is classified correctly, bool [N]; after PGD with step 2.5 eps / steps if eps > 0."""
    device, hits = images.pixels.device, []
    progress = Progress(title or (f"pgd-{steps}" if eps else "clean"), len(images))
    for start in range(0, len(images), batch):
        x = datasets.to_float(images.pixels[start : start + batch])
        label = images.labels[start : start + batch]
        if eps:
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + start)).to(device)
            x = attack(f, x, label, eps, steps, 2.5 * eps / steps, noise)
        with torch.no_grad():
            hits.append(f(x).argmax(dim=1) == label)
        progress.advance(len(label))
    return torch.cat(hits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a checkpoint written by workers.engine.train")
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10")
    parser.add_argument("--epsilon", type=float, default=1.0, help="L2 radius of the attack, pixel units")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--limit", type=int, help="only the first N test images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    saved = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    model = models.load(saved["config"]["architecture"], saved["model"], args.device)
    test = datasets.load_cifar10(args.data, train=False)
    test = datasets.Images(test.pixels[: args.limit].to(args.device), test.labels[: args.limit].to(args.device))
    clean = correct(model, test, 0, 0).float().mean().item()
    robust = correct(model, test, args.epsilon, args.steps).float().mean().item()
    print(json.dumps({"images": len(test), "clean_accuracy": clean, f"pgd{args.steps}_accuracy": robust,
                      "epsilon": args.epsilon, "epoch": saved["epoch"]}))  # fmt: skip


if __name__ == "__main__":
    main()
