"""Clean and adversarial accuracy of a classifier.

    python -m workers.engine.evaluate --checkpoint runs/robust/checkpoint.pt --data DIR --epsilon 1 --attacks pgd-20

An image falls to an attack if any iterate of any of its restarts is misclassified, and is then left alone. One that is
misclassified as it is has fallen to every attack.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from workers.engine import datasets, models
from workers.engine.attacks import Attack, controls, parse
from workers.engine.constraints import CONSTRAINTS, FLOOR
from workers.engine.ema import final_weights
from workers.engine.outcomes import Outcome, summarise
from workers.engine.pgd import Function
from workers.engine.progress import Progress
from workers.engine.seeding import generator

GRAIN = 32
"""Batch sizes are multiples of this; some images are then computed twice."""

Observe = Callable[[str, int], None]
"""Called before each forward with the attack's name, or `clean`, and how many images it is for; may raise to stop."""


class Watch:
    """A classifier that answers an attack for the images of a batch that still stand, and notes what became of each.

    An attack calls it with the whole batch; the fallen get logits of zero and no gradient, and cost nothing.
    """

    def __init__(self, f: Function, logits_NK: Tensor, label_N: Tensor) -> None:
        self.f, self.label, self.classes = f, label_N, logits_NK.shape[1]
        self.prediction, self.margin = logits_NK.argmax(dim=1), _margin(logits_NK, label_N)
        self.steps, self.vanished = torch.zeros_like(self.margin), torch.zeros_like(self.margin)
        self.batch, self.up, self.size = torch.arange(0), torch.arange(0), 0

    def batches(self, size: int) -> Iterator[Tensor]:
        """The images that stand now, `size` at a time, int64 [n]; each batch is what the calls that follow are for."""
        standing = self._standing(torch.arange(len(self.label), device=self.label.device))
        self.size = size
        for rows in torch.split(standing, size):
            self.batch = rows
            if len(rows):
                yield rows

    def _standing(self, rows: Tensor) -> Tensor:
        return (self.prediction[rows] == self.label[rows]).nonzero()[:, 0]

    def __call__(self, x: Tensor) -> Tensor:
        self.up = self._standing(self.batch)
        if not len(self.up):
            return x.new_zeros(len(x), self.classes)
        rows = self.batch[self.up]
        some = self.up[torch.arange(_rounded(len(rows), self.size), device=x.device) % len(rows)]
        logits = _finite(self.f(x[some])[: len(rows)])
        self.prediction[rows] = logits.argmax(dim=1)
        self.margin[rows] = torch.minimum(self.margin[rows], _margin(logits.detach(), self.label[rows]))
        return logits.new_zeros(len(x), self.classes).index_copy(0, self.up, logits)

    def step(self, _: int, __: Tensor, ___: Tensor, grad_norm: Tensor) -> bool:
        """Observes an attack: counts each image's steps, and those without a gradient; stops it when all fell."""
        rows = self.batch[self.up]
        self.steps[rows] += 1
        self.vanished[rows] += (grad_norm[self.up] <= FLOOR).to(self.vanished.dtype)
        return not len(self._standing(self.batch))


def evaluate(
    f: Function,
    pixels: Tensor,
    labels: Tensor,
    attacks: Sequence[Attack],
    indices: Sequence[int] | None = None,
    seed: int = 0,
    batch: int = 256,
    observe: Observe | None = None,
) -> Outcome:
    """What `f` answers to each image, and to each under each attack; the attacks know nothing of one another.

    `f` maps [n, C, H, W] in [0, 1] to logits, float32 or finer, in eval mode. `pixels` are uint8, or floats in [0, 1];
    `labels` int64 [N]. An image's noise is drawn from (seed, its index, run), so that its outcome depends on no other
    image, nor on how images are shared out; `indices`, by default 0 to N - 1, are those in the whole data set.
    Raises ValueError for no images or a label that is no class; FloatingPointError for logits that are not finite.
    """
    index = list(range(len(labels)) if indices is None else indices)
    if not len(pixels) == len(labels) == len(index) > 0:
        raise ValueError(
            f"expected a label and an index for each image, got {len(labels)}, {len(index)}, {len(pixels)}"
        )
    with torch.no_grad():
        told = _observed(f, "clean", observe)
        clean = torch.cat([_finite(told(_as_float(some))) for some in torch.split(pixels, batch)])
    if int(labels.min()) < 0 or int(labels.max()) >= clean.shape[1]:
        raise ValueError(f"labels {labels.min()} to {labels.max()}; allowed: the classes 0 to {clean.shape[1] - 1}")
    watches = []
    for attack in attacks:
        watches.append(Watch(_observed(f, attack.name, observe), clean, labels))
        _run(attack, watches[-1], pixels, clean, index, seed, batch)
    shape = len(attacks), len(index)
    return Outcome(
        image=np.array(index, np.int64),
        label=labels.cpu().numpy(),
        clean=clean.argmax(dim=1).cpu().numpy(),
        prediction=np.array([w.prediction.cpu().numpy() for w in watches], np.int64).reshape(shape).T,
        margin=np.array([w.margin.cpu().numpy() for w in watches], np.float32).reshape(shape).T,
        vanished=np.array([(w.vanished / w.steps.clamp_min(1)).cpu().numpy() for w in watches]).reshape(shape).T,
    )


def correct(
    f: Function, images: datasets.Images, eps: float, steps: int, seed: int = 0, batch: int = 256, title: str = "",
    norm: str = "l2",
) -> Tensor:  # fmt: skip
    """Whether each image is classified correctly, bool [N]; under PGD with step 2.5 eps / steps if eps > 0."""
    attacks = [Attack("pgd", norm, eps, steps)] if eps else []
    hits, progress = [], Progress(title or "".join(a.name for a in attacks) or "clean", len(images))
    for rows in torch.split(torch.arange(len(images)), batch):
        some = datasets.Images(images.pixels[rows], images.labels[rows])
        outcome = evaluate(f, some.pixels, some.labels, attacks, rows.tolist(), seed, batch)
        hits.append(torch.from_numpy(outcome.stood().all(axis=1)))
        progress.advance(len(rows))
    return torch.cat(hits)


def _run(
    attack: Attack, watch: Watch, pixels: Tensor, clean_NK: Tensor, index: Sequence[int], seed: int, batch: int
) -> None:
    label = watch.label
    likeliest = clean_NK.scatter(1, label[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
    for run, rank in enumerate(attack.runs(clean_NK.shape[1])):
        for rows in watch.batches(batch):
            x = _as_float(pixels[rows])
            keys = [(seed, index[row], run) for row in rows.tolist()]
            noise = torch.stack([torch.randn(x.shape[1:], generator=generator(*key)) for key in keys])
            noise = noise.to(x).contiguous(memory_format=torch.channels_last)
            attack.search(watch, x, label[rows], likeliest[rows, rank], noise, watch.step)


def _observed(f: Function, name: str, observe: Observe | None) -> Function:
    def logits(x: Tensor) -> Tensor:
        if observe is not None:
            observe(name, len(x))
        return f(x)

    return logits


def _rounded(n: int, most: int) -> int:
    """A batch size for `n` images: libraries keep code and memory for each size that they meet."""
    return min(-(-n // GRAIN) * GRAIN, most)


def _as_float(pixels: Tensor) -> Tensor:
    floats = pixels if pixels.is_floating_point() else datasets.to_float(pixels)
    return floats.contiguous(memory_format=torch.channels_last)


def _finite(logits_NK: Tensor) -> Tensor:
    if not bool(logits_NK.isfinite().all()):
        raise FloatingPointError("the network's logits are not finite: they are NaN, or overflow its precision")
    return logits_NK


def _margin(logits_NK: Tensor, label_N: Tensor) -> Tensor:
    chosen = label_N[:, None]
    return logits_NK.gather(1, chosen)[:, 0] - logits_NK.scatter(1, chosen, -torch.inf).amax(dim=1)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a checkpoint written by workers.engine.train")
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10")
    parser.add_argument("--epsilon", type=float, default=1.0, help="radius of the attacks, pixel units")
    parser.add_argument("--norm", choices=list(CONSTRAINTS), default="l2")
    parser.add_argument("--attacks", default="pgd-20,pgd-100", help="clean, or attacks: pgd-20,pgd-100,apgd-ce,apgd-t")
    parser.add_argument("--restarts", type=int, default=1, help="of attacks that do not say, as pgd-100x5 does")
    parser.add_argument("--limit", type=int, help="only the first N test images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(arguments)
    names = [name for name in args.attacks.split(",") if name != "clean"]
    attacks = [parse(name, args.norm, args.epsilon, args.restarts) for name in names]
    attacks += controls(args.norm, args.epsilon) if attacks else ()
    saved = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    model = models.load(saved["config"]["architecture"], final_weights(saved), args.device)
    test = datasets.load_cifar10(args.data, train=False)
    every = torch.arange(len(test))[: args.limit]
    outcomes, progress = [], Progress("evaluation", len(every))
    for rows in torch.split(every, 4 * args.batch):
        pixels, labels = test.pixels[rows].to(args.device), test.labels[rows].to(args.device)
        outcomes.append(evaluate(model, pixels, labels, attacks, rows.tolist(), args.seed, args.batch))
        progress.advance(len(rows))
    print(json.dumps({"epoch": saved["epoch"], **summarise(outcomes, attacks, datasets.CIFAR_CLASSES)}, indent=2))


if __name__ == "__main__":
    main()
