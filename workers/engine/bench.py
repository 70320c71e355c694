"""Image-steps a second of the batcher against the robustness library's loop, and against what the device could do.

    python -m workers.engine.bench [--device cuda] [--architectures resnet50] [--precisions bf16] [--compile]

An image-step is one step of one image. `library` makes them as robustness' `Attacker.forward` does for a custom loss
(`bench_loops.library_step`), in fp32. `engine` is the batcher, as a worker runs it. The floor is the time that the
FLOPs of a forward pass and of the image's gradient take at the rate of a large matrix product of the same precision,
measured beside the loops. The loops of a cell take turns in one run and make the same steps; rates are medians of the
rounds.

Weights are random, from a seed: the engine reads no files of the service, and the time of a step depends on no weight.
`--items` asks what an item costs, from few to many, of one step each: of a function that computes nothing, which leaves
the batcher's own work, and of the CIFAR network.
"""

import argparse
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from workers.engine import memory, models, objectives
from workers.engine.bench_items import SMALL, items
from workers.engine.bench_loops import Engine, Library, Loop, network, own_time, seconds
from workers.engine.descent import Precision, descent
from workers.engine.lanes import tf32
from workers.engine.pgd import Function, gradient
from workers.engine.seeding import generator

WARM = 2
"""Steps before the clock runs: kernels are chosen, graphs captured, programs compiled."""
PATIENCE = 4.0
"""How many times its seconds a cell may be expected to take before it is skipped."""
Report = dict[str, Any]


def matrix_rate(device: torch.device, precision: str, n: int, rounds: int = 5) -> float:
    """FLOP/s of an n x n matrix product, the best of the rounds."""
    a = torch.rand(n, n, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    with tf32(precision == "tf32"):
        best = min(seconds(lambda: a @ a, device) for _ in range(rounds + 1))
    return 2 * n**3 / best


def flops(f: Function, x: Tensor, target_NK: Tensor) -> float:
    """Of one image's forward pass and gradient: two for every multiplication and addition of its products."""
    with FlopCounterMode(display=False) as counter:
        gradient(f, objectives.inversion(target_NK), x)
    total: int = counter.get_total_flops()
    return total / len(x)


def begun(make: Callable[[], Loop], device: torch.device) -> tuple[Loop | None, Report]:
    """A loop after its first steps, with the memory that they took, or None with the error that they raised."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    base = torch.cuda.memory_allocated(device) if on_gpu else 0
    try:
        loop = make()
        loop.advance(WARM)
    except Exception as e:  # memory, or whatever a compiler raises: the other loops go on
        return None, {"error": f"{type(e).__name__}: {e}".splitlines()[0][:200]}
    return loop, {"peak_mb": (torch.cuda.max_memory_allocated(device) - base) / 1e6} if on_gpu else {}


def race(loops: dict[str, Loop], device: torch.device, budget: float, most: int, rounds: int) -> tuple[int, Report]:
    """Steps of a round, and each loop's median seconds a step. They take turns, for about `budget` seconds in all."""
    once = sum(seconds(partial(loop.advance, 1), device) for loop in loops.values())
    steps = max(min(int(budget / (rounds * once)), most), 1)
    taken: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            taken[name].append(seconds(partial(loop.advance, steps), device) / steps)
    return steps, {name: median(times) for name, times in taken.items()}


def farthest(loops: dict[str, Loop]) -> Report:
    """The largest difference of a pixel between the library's searches and another loop's, after the same steps.

    It begins at rounding, and grows: where a gradient's direction is unstable, two orders of summation part ways.
    """
    if "library" not in loops:
        return {}
    want = loops["library"].x
    return {name: (loop.x - want).abs().max().item() for name, loop in loops.items() if name != "library"}


class Cell:
    """One network, precision and number of images, on its way from noise to the representations of other noise."""

    def __init__(self, architecture: str, batch: int, precision: Precision, device: torch.device) -> None:
        self.names: Report = {"architecture": architecture, "batch": batch, "precision": precision}
        self.precision: Precision = precision
        self.device, self.size = device, models.find(architecture).size
        self.ours, self.theirs = network(architecture, device), network(architecture, device)
        self.theirs.to(memory_format=torch.contiguous_format).requires_grad_(True)
        shape = batch, 3, self.size, self.size
        self.x, image = (torch.rand(shape, generator=generator(seed)).to(device) for seed in (0, 1))
        with torch.no_grad():
            self.target_NK = torch.cat([self.ours.represent(image[i : i + 16]) for i in range(0, batch, 16)])

    def descent(self, compiled: bool = False) -> Function:
        ours = self.ours
        return descent(ours, "penultimate", ours.has_last_relu, "mean", self.precision, self.size, compiled)

    def loops(self, compiled: bool) -> dict[str, Callable[[], Loop]]:
        def engine(compiled: bool) -> Loop:
            return Engine(self.descent(compiled), self.x, self.target_NK, self.precision)

        makes: dict[str, Callable[[], Loop]] = {"library": lambda: Library(self.theirs, self.x, self.target_NK)}
        if self.device.type == "cuda":  # which is what PyTorch's defaults make of a convolution there
            makes["library_tf32"] = lambda: Library(self.theirs, self.x, self.target_NK, tf32=True)
        makes["engine"] = lambda: engine(False)
        return makes | ({"compiled": lambda: engine(True)} if compiled else {})

    def work(self, matrix: int) -> Report:
        """What an image-step takes: FLOPs at the rate of a product of `matrix` rows, and what is kept for backward."""
        f, x = self.descent(), self.x[:1].contiguous(memory_format=torch.channels_last)

        def twice(x: Tensor) -> Tensor:
            return torch.cat([self.theirs(x), self.theirs.represent(x)], dim=1)

        kept = {"library": memory.row_bytes(twice, self.x[:1]), "engine": memory.row_bytes(f, x)}
        return {
            "flops": flops(self.ours.represent, x, self.target_NK[:1]),  # the counter knows no fused layers
            "matrix_flops_per_second": matrix_rate(self.device, self.precision, matrix),
            "kept_mb_per_row": {name: size / 1e6 for name, size in kept.items()},
        }

    def measure(self, budget: float, most: int, rounds: int, compiled: bool, matrix: int) -> Report:
        """Every loop's rate, memory, share of the floor, and distance from the library's searches."""
        if compiled:
            torch.compiler.reset()  # which else stops compiling one function for many shapes
        found = {name: begun(make, self.device) for name, make in self.loops(compiled).items()}
        loops = {name: loop for name, (loop, _) in found.items() if loop}
        early = farthest(loops)
        steps, times = race(loops, self.device, budget, most, rounds) if loops else (0, {})
        rates, work = {name: len(self.x) / each for name, each in times.items()}, self.work(matrix)
        floor = work["matrix_flops_per_second"] / work["flops"]
        return self.names | work | {
            "steps": steps,
            "image_steps_per_second": rates,
            "over_library": {name: rate / rates["library"] for name, rate in rates.items() if "library" in rates},
            "of_floor": {name: rate / floor for name, rate in rates.items()},
            "peak_mb": {name: said["peak_mb"] for name, (_, said) in found.items() if "peak_mb" in said},
            "cuda_graphs": {name: loop.graphs for name, loop in loops.items() if isinstance(loop, Engine)},
            "farthest_pixel": {f"{WARM} steps": early, f"{WARM + 1 + rounds * steps} steps": farthest(loops)},
            "errors": {name: said["error"] for name, (_, said) in found.items() if "error" in said},
        }  # fmt: skip


def cells(device: torch.device, a: argparse.Namespace) -> Iterator[Report]:
    """Every cell; one that would take too long is skipped, and says so."""
    known: dict[tuple[str, str], float] = {}
    for architecture, precision, batch in product(a.architectures, a.precisions, a.batches):
        about = known.get((architecture, precision), 0) * batch * (WARM + 1 + a.rounds)
        names = {"architecture": architecture, "batch": batch, "precision": precision}
        if about > PATIENCE * a.seconds:
            yield names | {"errors": {"cell": f"skipped: would take about {about:.0f} s"}}
            continue
        try:
            report = Cell(architecture, batch, precision, device).measure(
                a.seconds, a.steps, a.rounds, a.compile, a.matrix
            )
        except (MemoryError, RuntimeError) as e:
            yield names | {"errors": {"cell": f"{type(e).__name__}: {e}".splitlines()[0][:200]}}
            continue
        known[architecture, precision] = sum(1 / rate for rate in report["image_steps_per_second"].values())
        yield report


def machine(device: torch.device) -> str:
    """What computes, by name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} ({platform.machine()}), {torch.get_num_threads()} threads"


HEADINGS = ["network", "B", "precision", "steps", "library", "engine", "ratio", "of floor", "compiled", "MB a row",
            "peak MB", "graphs", "pixel", "at end"]  # fmt: skip


def line(r: Report) -> list[str]:
    """A cell of the table, or what became of it."""
    start = [r["architecture"], str(r["batch"]), r["precision"]]
    if "cell" in r["errors"]:
        return [*start, r["errors"]["cell"]]

    def of(name: str, loop: str, form: str) -> str:
        return format(r[name][loop], form) if loop in r[name] else "-"

    rate = "image_steps_per_second"
    return [
        *start, str(r["steps"]), of(rate, "library", ".1f"), of(rate, "engine", ".1f"),
        of("over_library", "engine", ".2f"), of("of_floor", "engine", ".0%"), of("over_library", "compiled", ".2f"),
        of("kept_mb_per_row", "engine", ".2f"), of("peak_mb", "engine", ".0f"),
        "yes" if r["cuda_graphs"].get("engine") else "no",
        *(format(each["engine"], ".0e") if "engine" in each else "-" for each in r["farthest_pixel"].values()),
    ]  # fmt: skip


def show(cells: Sequence[str]) -> None:
    first, *others = cells
    print(f"{first:20}" + "".join(f"{cell:>10}" for cell in others), flush=True)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--architectures", nargs="*", default=[SMALL, "resnet50"])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 4, 16, 64, 256])
    parser.add_argument("--precisions", nargs="*", choices=get_args(Precision), help="of the engine; left out: all")
    parser.add_argument("--steps", type=int, default=300, help="most steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30, help="about how long a cell may take; steps are as many")
    parser.add_argument("--compile", action="store_true", help="also the batcher through torch.compile")
    parser.add_argument("--matrix", type=int, default=0, help="rows of the matrices whose product is the floor's rate")
    parser.add_argument("--items", nargs="*", type=int, default=[], help="also what an item costs, of so many")
    parser.add_argument("--quick", action="store_true", help="the CIFAR network alone, in half a minute")
    parser.add_argument("--out", type=Path, help="a JSON file for everything that was measured")
    a = parser.parse_args(argv)
    if a.quick:
        a.architectures, a.batches, a.rounds, a.seconds = [SMALL], [1, 16], 3, 3.0
    a.precisions = a.precisions or ([*get_args(Precision)] if a.device.startswith("cuda") else ["fp32", "bf16"])
    a.matrix = a.matrix or (8192 if a.device.startswith("cuda") else 2048)
    return a


def main(argv: Sequence[str] | None = None) -> None:
    a = arguments(argv)
    device = torch.device(a.device)
    about: Report = {"machine": machine(device), "torch": torch.__version__, "threads": torch.get_num_threads(),
                     "weights": "random, seed 0", "rounds": a.rounds,
                     "clock": "process" if own_time(device) else "wall"}  # fmt: skip
    print(f"{about['machine']}, PyTorch {torch.__version__}; image-steps/s, medians of {a.rounds} rounds")
    show(HEADINGS)
    report: Report = about | {"cells": []}
    for each in cells(device, a):
        report["cells"].append(each)
        show(line(each))
    if a.items:
        report["microseconds_per_item"] = costs = items(device, a.items)
        for name, of_count in costs.items():
            print(f"microseconds an item, {name}: " + ", ".join(f"{n:,}: {cost:.0f}" for n, cost in of_count.items()))
    if a.out:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        a.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
