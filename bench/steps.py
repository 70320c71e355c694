"""`make bench`: the engine's step against a plain PyTorch loop, interleaved in one run. Prints seconds and their ratio.

The plain loop is how image-space studies are usually written: autograd through the loss as well, weights that require
gradients, the default memory layout, and a second forward to read the loss.
"""

import json
import platform
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from workers.engine import models, objectives
from workers.engine.pgd import pgd
from workers.engine.seeding import generator

BATCH, STEPS, ROUNDS = 16, 20, 5


def plain(model: models.Network, x: Tensor, target: Tensor) -> Tensor:
    """STEPS steps of eps 1000, step 0.1, as in a notebook."""
    x0 = x
    for _ in range(STEPS):
        x = x.clone().detach().requires_grad_(True)
        loss = (model.represent(x, True) - target).norm(dim=1).mean()
        (g,) = torch.autograd.grad(loss, [x])
        with torch.no_grad():
            (model.represent(x) - target).norm(dim=1)
            x = x - 0.1 * g / (g.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-10)
            x = torch.clamp(x0 + (x - x0).renorm(p=2, dim=0, maxnorm=1000), 0, 1)
    return x


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    state = models.build("cifar-resnet-small").state_dict()
    ours = models.load("cifar-resnet-small", state, device)
    theirs = (
        models.load("cifar-resnet-small", state, device).to(memory_format=torch.contiguous_format).requires_grad_(True)
    )
    x = torch.rand(BATCH, 3, 32, 32, generator=generator(0)).to(device)
    target = ours.represent(torch.rand(BATCH, 3, 32, 32, generator=generator(1)).to(device))
    x_last = x.contiguous(memory_format=torch.channels_last)

    def engine() -> Tensor:
        return pgd(lambda z: ours.represent(z, True), objectives.inversion(target), x_last, x_last, 1000, 0.1, STEPS)

    loops: dict[str, Callable[[], Tensor]] = {"engine": engine, "plain": lambda: plain(theirs, x, target)}
    results = {name: loop() for name, loop in loops.items()}
    difference = (results["engine"] - results["plain"]).abs().max().item()
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(ROUNDS):
        for name, loop in loops.items():
            start = time.perf_counter()
            loop()[0, 0, 0, 0].item()  # waits for the device
            seconds[name].append((time.perf_counter() - start) / (STEPS * BATCH))
    medians = {name: median(times) for name, times in seconds.items()}
    report = {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu {platform.machine()}",
        "torch": torch.__version__, "threads": torch.get_num_threads(), "batch": BATCH,
        "ms_per_image_step": {name: round(1000 * value, 4) for name, value in medians.items()},
        "plain_over_engine": round(medians["plain"] / medians["engine"], 2), "largest_pixel_difference": difference,
    }  # fmt: skip
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
