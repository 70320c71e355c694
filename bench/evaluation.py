"""Images a second of a PGD evaluation against a plain PyTorch loop, interleaved in one run on one network and machine.

    python -m bench.evaluation [--device cuda] [--architecture resnet50] [--precision bf16]

The plain loop is written as the robustness library writes it: fp32, the default memory layout, the mean cross-entropy
through autograd with weights that require gradients, each image's iterate of greatest loss kept, and a forward for the
answer. `same_steps` is the engine's attack taking every step on every image, and a forward. `evaluation` also answers
for the images as they are, and leaves alone those that fell; what that saves depends on how many do (`stand`). The
weights are random, and the images noise that the network labels itself.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine import datasets, models
from workers.engine.attacks import Attack, attack
from workers.engine.evaluate import evaluate
from workers.engine.seeding import generator


def plain(model: models.Network, x0: Tensor, label: Tensor, eps: float, steps: int) -> Tensor:
    """Whether each image is classified correctly after the attack, bool [N]."""
    step_size, noise = 2.5 * eps / steps, torch.randn_like(x0)
    best_loss, best_x = torch.full(label.shape, -torch.inf, device=x0.device), x0.clone()

    def keep(losses: Tensor, x: Tensor) -> None:
        better = losses.detach() > best_loss
        best_loss[better], best_x[better] = losses.detach()[better], x.detach()[better].clone()

    x = torch.clamp(x0 + eps * noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1), 0, 1)
    for _ in range(steps):
        x = x.clone().detach().requires_grad_(True)
        losses = F.cross_entropy(model(x), label, reduction="none")
        (g,) = torch.autograd.grad(losses.mean(), [x])
        with torch.no_grad():
            keep(losses, x)
            x = x + step_size * g / (g.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-10)
            x = torch.clamp(x0 + (x - x0).renorm(p=2, dim=0, maxnorm=eps), 0, 1)
    keep(F.cross_entropy(model(x), label, reduction="none"), x)
    with torch.no_grad():
        return model(best_x).argmax(dim=1) == label  # type: ignore[no-any-return]


def contestants(args: argparse.Namespace) -> dict[str, Callable[[], Tensor]]:
    """Each evaluates the same images on the same weights, and answers which of them stand."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = models.build(args.architecture).state_dict()
    ours, theirs = (models.load(args.architecture, state, args.device) for _ in range(2))
    theirs.to(memory_format=torch.contiguous_format).requires_grad_(True)
    size = models.ARCHITECTURES[args.architecture].size
    drawn = torch.randint(0, 256, (args.batch, 3, size, size), generator=generator(0))
    pixels = drawn.to(args.device, torch.uint8)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.precision]

    def f(x: Tensor) -> Tensor:
        with torch.autocast(args.device.split(":")[0], dtype, enabled=args.precision != "fp32"):
            return ours(x).float()  # type: ignore[no-any-return]

    with torch.no_grad():
        label = f(datasets.to_float(pixels)).argmax(dim=1)

    def same_steps() -> Tensor:
        x = datasets.to_float(pixels)
        x = attack(f, x, label, args.epsilon, args.steps, 2.5 * args.epsilon / args.steps, torch.randn_like(x))
        with torch.no_grad():
            return f(x).argmax(dim=1) == label

    def evaluation() -> Tensor:
        pgd = Attack("pgd", "l2", args.epsilon, args.steps)
        return torch.from_numpy(evaluate(f, pixels, label, [pgd], batch=args.batch).stood()[:, 1])

    return {
        "plain": lambda: plain(theirs, (pixels.float() / 255).contiguous(), label, args.epsilon, args.steps),
        "same_steps": same_steps,
        "evaluation": evaluation,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--architecture", choices=list(models.ARCHITECTURES), default="cifar-resnet-small")
    parser.add_argument(
        "--precision", choices=["fp32", "bf16"], default="fp32", help="the engine's; the plain loop's is fp32"
    )
    parser.add_argument("--epsilon", type=float, default=0.5, help="L2 radius, pixel units")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    loops = contestants(args)
    stand = {name: loop().float().mean().item() for name, loop in loops.items()}
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(args.rounds):
        for name, loop in loops.items():
            start = time.perf_counter()
            loop().sum().item()  # waits for the device
            rates[name].append(args.batch / (time.perf_counter() - start))
    rate = {name: median(values) for name, values in rates.items()}
    device = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else f"cpu {platform.machine()}"
    report = vars(args) | {
        "device": device, "torch": torch.__version__, "threads": torch.get_num_threads(), "stand": stand,
        "images_per_second": {name: round(value, 3) for name, value in rate.items()},
        "ratio": {name: round(rate[name] / rate["plain"], 2) for name in ("same_steps", "evaluation")},
    }  # fmt: skip
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
