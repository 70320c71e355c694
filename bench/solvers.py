"""How near each solver comes to the target's representation, against gradient evaluations, on the shipped networks.

    python -m bench.solvers [--images 64] [--device cpu] [--threads 1] [--most 10000]

Inverts the first images of cifar10-sample from noise, with the true gradient. Searches run on a folded copy of a
network, in fp32 or bf16; every distance is computed anew in fp32 on the network itself. A finished run goes into
bench/results/solvers.json, its images into runs/solvers: a study that was interrupted goes on where it was.
"""

import argparse
import json
import math
import platform
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from safetensors.torch import load_file
from torch import Tensor

from workers.assets import ASSETS
from workers.engine import figures, metrics, models, objectives
from workers.engine.descent import descent
from workers.engine.pgd import Function, step
from workers.engine.seeding import generator
from workers.engine.solvers import SCHEDULES, SOLVERS, constraint, multiplier
from workers.engine.statistics import bootstrap

RESULTS, IMAGES = Path(__file__).parent / "results", Path("runs/solvers")
MODELS = "cifar10-robust", "cifar10-standard"
EPS = 1000.0
MOVED = 1e-4
"""Standard deviation in pixels, far below a step, and enough for two searches to part."""
SHOWN = 10
"""Images on the sheet."""


class Case(NamedTuple):
    """A solver with its step size (L2, pixel units), and the numbers of steps, one gradient evaluation each."""

    solver: str
    schedule: str
    step_size: float
    budgets: tuple[int, ...]
    precision: str = "fp32"
    """fp32, bf16, or fp32-moved: fp32 from starts moved by `MOVED`, which tells chance from what bf16 does."""


BUDGETS = 100, 300, 500, 1000, 2000
PLAIN = Case("pgd", "constant", 0.1, (*BUDGETS, 10_000))
FAST = Case("momentum", "geometric", 1.0, (100, 300, 500, 2000))
CASES = (
    PLAIN,
    FAST,
    FAST._replace(step_size=0.5, budgets=(500,)),
    FAST._replace(schedule="cosine", step_size=0.5, budgets=(100, 300, 500)),
    Case("adam", "geometric", 1.0, (500,)),
    Case("momentum", "cosine", 1.0, (500,)),
    Case("pgd", "cosine", 1.0, (500,)),
    *(
        case._replace(budgets=(budget,), precision=precision)
        for case, budget in ((PLAIN, 300), (FAST, 300), (FAST, 500))
        for precision in ("bf16", "fp32-moved")
    ),
)


class Study:
    """A network, its targets and its starts; what is measured at the end of a run."""

    def __init__(self, name: str, count: int, device: torch.device) -> None:
        self.name, self.device = name, device
        self.network, self.judge = _load(name, device), _load("cifar10-judge", device)
        data = np.load(ASSETS / "datasets" / "cifar10-sample" / "images.npz")
        pixels = torch.from_numpy(data["images"][:count]).permute(0, 3, 1, 2).float() / 255
        self.images = pixels.to(device, memory_format=torch.channels_last)
        self.labels = torch.from_numpy(data["labels"][:count]).to(device, torch.int64)
        noise = torch.stack([torch.randn(3, 32, 32, generator=generator(0, i)) for i in range(count)])
        self.starts = (0.5 + 0.05 * noise).clamp(0, 1).to(device, memory_format=torch.channels_last)
        with torch.no_grad():
            self.target = self.network.represent(self.images)

    @torch.no_grad()
    def measure(self, x: Tensor) -> dict[str, Any]:
        """In fp32 on the network as it was loaded."""
        distance = metrics.relative_distance(self.network.represent(x), self.target)
        quantiles = torch.tensor([0.25, 0.5, 0.75, 1.0], device=x.device)
        low, median, high, most = (round(v, 6) for v in distance.quantile(quantiles).tolist())
        return {
            "distance": {"q25": low, "median": median, "q75": high, "max": most},
            "judge_agrees": round((self.judge(x).argmax(dim=1) == self.labels).float().mean().item(), 4),
            "ssim": _median(metrics.ssim(x, self.images)), "pixel_l2": _median(metrics.pixel_l2(x, self.images)),
            "total_variation": _median(total_variation(x)), "distances": [round(v, 6) for v in distance.tolist()],
        }  # fmt: skip

    def function(self, precision: str) -> Function:
        """R(x) as a worker descends it."""
        return descent(self.network, "penultimate", False, "mean", "bf16" if precision == "bf16" else "fp32", 32)

    def searches(self, case: Case) -> Iterator[tuple[int, Tensor]]:
        """The images [N, C, H, W] of a case at each budget; one search passes all budgets if its step is constant."""
        kept = partial(_kept, f"{self.name}-{case.solver}-{case.schedule}-{case.step_size:g}-{case.precision}")
        f, k = self.function(case.precision), 0
        x = start = self.moved() if case.precision == "fp32-moved" else self.starts
        buffers = [torch.zeros_like(x) for _ in range(SOLVERS[case.solver].buffers)]
        for budget in case.budgets:
            if case.schedule != "constant":
                x, k, buffers = start, 0, [buffer.zero_() for buffer in buffers]
            if kept(budget).exists():
                x, *buffers = (v.to(self.device) for v in torch.load(kept(budget), weights_only=True))
            else:
                x = self.descend(f, case, x, buffers, k, budget)
                torch.save([x, *buffers], kept(budget))
            k = budget
            yield budget, x

    def moved(self) -> Tensor:
        noise = torch.randn(self.starts.shape, generator=generator(1)).to(self.device)
        return (self.starts + MOVED * noise).clamp(0, 1)

    def descend(self, f: Function, case: Case, x: Tensor, buffers: list[Tensor], k: int, budget: int) -> Tensor:
        """From step `k` to step `budget`."""
        objective, solver = objectives.inversion(self.target), SOLVERS[case.solver]
        of_row = partial(torch.full, (len(x),), dtype=torch.int64, device=self.device)
        schedule, steps = of_row(SCHEDULES.index(case.schedule)), of_row(budget)
        for i in range(k, budget):
            size = case.step_size * multiplier(schedule, of_row(i), steps)
            x = step(f, objective, x, self.starts, EPS, size, constraint(solver, x, buffers, of_row(i))).x
        return x


def total_variation(x_NCHW: Tensor) -> Tensor:
    """Mean absolute difference of vertical neighbours plus that of horizontal ones, [N]: how noisy an image is."""
    return sum((x_NCHW.diff(dim=d).abs().flatten(1).mean(dim=1) for d in (2, 3)), torch.zeros(()))


def run(study: Study, report: dict[str, Any], most: int) -> None:
    """Every case that the report lacks, budgets up to `most`; the report is written after each budget."""
    runs = report["runs"]
    for case in CASES:
        case = case._replace(budgets=tuple(budget for budget in case.budgets if budget <= most))
        named = {"model": study.name, **{key: value for key, value in case._asdict().items() if key != "budgets"}}
        if all(find(runs, **named, steps=budget) for budget in case.budgets):
            continue
        for budget, x in study.searches(case):
            if not find(runs, **named, steps=budget):
                runs.append({**named, "steps": budget, **study.measure(x)})
                print(json.dumps({**runs[-1], "distances": "..."}), flush=True)
                write(report)


def find(runs: list[dict[str, Any]], **named: Any) -> list[dict[str, Any]]:
    return [each for each in runs if all(each[key] == value for key, value in named.items())]


def write(report: dict[str, Any]) -> None:
    """A run a line."""
    report["against_fp32"] = _against_fp32(report["runs"])
    lists = {key: value for key, value in report.items() if isinstance(value, list)}
    head = json.dumps({key: value for key, value in report.items() if key not in lists})
    body = [f'"{key}": [\n  ' + ",\n  ".join(map(json.dumps, value)) + "\n ]" for key, value in lists.items()]
    (RESULTS / "solvers.json").write_text(",\n ".join([head[:-1], *body]) + "\n}\n")


def _against_fp32(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Distances after a search in bf16, or from moved starts, over those after the same in fp32.

    The ratio of the medians, and the geometric mean of the images' own ratios with its 95% bootstrap interval.
    """
    ratios = []
    for other in runs:
        named = {key: other[key] for key in ("model", "solver", "schedule", "step_size", "steps")}
        for full in find(runs, **named, precision="fp32") if other["precision"] != "fp32" else ():
            logs = np.log(np.array(other["distances"]) / np.array(full["distances"]))
            mean = [round(math.exp(v), 4) for v in bootstrap(logs, np.mean)]
            of_medians = round(other["distance"]["median"] / full["distance"]["median"], 4)
            ratios.append({**named, "precision": other["precision"], "of_medians": of_medians, "mean_low_high": mean})
    return ratios


def draw(report: dict[str, Any]) -> None:
    """Median distance against gradient evaluations, a panel a model; dashed, what PLAIN's longest search reached."""
    runs = report["runs"]
    figure, panels = plt.subplots(1, len(MODELS), figsize=(11, 4.2), sharey=True, layout="constrained")
    for model, panel in zip(MODELS, panels, strict=True):
        for case in CASES:
            kind = {"solver": case.solver, "schedule": case.schedule, "step_size": case.step_size}
            found = sorted(find(runs, model=model, precision=case.precision, **kind), key=lambda each: each["steps"])
            if case.precision == "fp32" and found:
                points = zip(*[(each["steps"], each["distance"]["median"]) for each in found], strict=True)
                panel.loglog(*points, marker="o", label=f"{case.solver}, {case.schedule} from {case.step_size:g}")
        for reached in find(runs, model=model, steps=PLAIN.budgets[-1], solver=PLAIN.solver, schedule=PLAIN.schedule):
            panel.axhline(reached["distance"]["median"], color="gray", linestyle="--", linewidth=1)
        panel.set(title=model, xlabel="gradient evaluations")
        panel.grid(alpha=0.3, which="both")
    panels[0].set_ylabel("relative distance, median")
    panels[0].legend(fontsize=8)
    figure.savefig(RESULTS / "solvers.png", dpi=110)


def draw_pictures(study_of: dict[str, Study]) -> None:
    """Targets, and what three searches found of them, a row each."""
    shown = ("plain", PLAIN, 300), ("plain", PLAIN, PLAIN.budgets[-1]), ("fast", FAST, 300), ("fast", FAST, 500)
    rows = [("target", study_of[MODELS[0]].images)]
    for name in MODELS:
        for title, case, budget in shown:
            file = _kept(f"{name}-{case.solver}-{case.schedule}-{case.step_size:g}-{case.precision}", budget)
            if file.exists():
                rows.append((f"{name[8:]}, {title}, {budget}", torch.load(file, weights_only=True)[0]))
    cells = [(title, [figures.to_image(x) for x in images[:SHOWN]]) for title, images in rows]
    captions = [str(i) for i in range(min(SHOWN, len(rows[0][1])))]
    figures.contact_sheet(cells, captions, cell=64).save(RESULTS / "solvers-pictures.png", optimize=True)


def _load(name: str, device: torch.device) -> models.Network:
    folder = ASSETS / "models" / name
    card = json.loads((folder / "card.json").read_text())
    return models.load(card["architecture"], load_file(folder / "model.safetensors"), device)


def _kept(case: str, budget: int) -> Path:
    return IMAGES / f"{case}-{budget}.pt"


def _median(values: Tensor) -> float:
    return round(values.median().item(), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--most", type=int, default=max(PLAIN.budgets), help="leave out longer searches")
    args = parser.parse_args()
    matplotlib.use("Agg")
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"cpu {platform.machine()}"
    about = {"device": name, "torch": torch.__version__, "images": args.images}
    for folder in (RESULTS, IMAGES):
        folder.mkdir(parents=True, exist_ok=True)
    file = RESULTS / "solvers.json"
    report = json.loads(file.read_text()) if file.exists() else {**about, "runs": []}
    if any(report[key] != value for key, value in about.items()):
        raise SystemExit(f"{file} is a study of {[report[key] for key in about]}; delete it and {IMAGES} for another")
    study_of = {model: Study(model, args.images, device) for model in MODELS}
    for study in study_of.values():
        report["targets"] = {"total_variation": _median(total_variation(study.images))}
        run(study, report, args.most)
    write(report)
    draw(report)
    draw_pictures(study_of)


if __name__ == "__main__":
    main()
