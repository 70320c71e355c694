"""The gallery: every recipe on the shipped networks, through the service, with its numbers below each picture.

    python -m workers.gallery [NAME ...]      # make gallery

Writes deploy/gallery/NAME.png and .json, the page deploy/gallery/README.md, and the README's section between its marks.
"""

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from service import logs
from service.client import Client
from service.recipe_cli import connected, download, follow
from service.recipes import RECIPES
from service.settings import Settings

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy" / "gallery"
MARKS = ("<!-- gallery: written by `make gallery` -->", "<!-- end of the gallery -->")
MAIN = ("figure-2", "figure-3", "figure-4", "figure-5", "figure-6", "figure-7", "figure-8", "figure-10", "figure-11",
        "figure-12")  # fmt: skip
COMMON = {"model": "cifar10-robust", "baseline": "cifar10-standard", "preset": "cifar"}


def cifar(first: int, last: int) -> dict[str, Any]:
    """Images of the shipped sample, `last` included."""
    return {"source": "dataset", "dataset": "cifar10-sample", "indices": list(range(first, last + 1))}


NATURAL = {"source": "dataset", "dataset": "natural-sample", "indices": list(range(8))}
KINDS = ["stripes", "checkerboard", "gradient", "circles", "polygons", "blobs", "scribbles", "text"]
PATTERNS = {"source": "patterns", "patterns": KINDS}
OTHERS = {"source": "mixed", "parts": [NATURAL, PATTERNS]}
BODIES: dict[str, dict[str, Any]] = {
    "figure-2": {"images": cifar(0, 15)},
    "figure-3": {"images": cifar(0, 31)},
    "figure-4": {"images": cifar(0, 31)},
    "figure-5": {"images": cifar(0, 7)},
    "figure-6": {"images": cifar(0, 15), "out_of_distribution": OTHERS},
    "figure-7": {"images": cifar(0, 2), "random_coordinates": 8},
    "figure-8": {"dataset": "cifar10-sample", "random_coordinates": 16},
    "figure-10": {"coordinates": list(range(9)), "random_coordinates": 16},
    "figure-11": {"images": cifar(0, 15), "coordinates": [133], "random_coordinates": 1},
    "figure-12": {"first": cifar(0, 7), "second": cifar(12, 19)},
    "figure-13": {"images": cifar(32, 47)},
    "figure-14": {
        "images": cifar(64, 71),
        "out_of_distribution": PATTERNS | {"patterns": KINDS * 2, "seed": 1},
    },
    "figure-15": {"images": cifar(40, 63)},
    "figure-16": {"images": cifar(100, 123)},
    "figure-17": {"first": cifar(40, 45), "second": cifar(61, 66)},
    "figure-18": {"first": cifar(40, 45), "second": cifar(61, 66)},
    "figure-19": {"images": cifar(3, 5), "random_coordinates": 8, "seed": 1},
    "figure-20": {"images": cifar(3, 5), "coordinates": [10, 30, 50, 70, 90, 110, 130, 150]},
    "figure-21": {"images": cifar(6, 8), "random_coordinates": 8, "seed": 2, "other": "cifar10-judge"},
    "figure-22": {"images": cifar(9, 11), "random_coordinates": 8, "seed": 3},
    "figure-23": {"images": cifar(10, 19), "random_coordinates": 4, "seed": 4},
}


def section(name: str, record: dict[str, Any], folder: str) -> str:
    """A figure's heading, picture, claims and cost, in Markdown."""
    title = f"{name.replace('-', ' ').capitalize()}: {RECIPES[name].title[0].lower()}{RECIPES[name].title[1:]}"
    lines = [f"### {title}", "", f"![{RECIPES[name].title}]({folder}{name}.png)", "", *table(record["claims"]), ""]
    steps = sum(part["image_steps"] for part in record["cost"].values())
    seconds = sum(part["seconds"] or 0 for part in record["cost"].values())
    items = sum(part["items"] for part in record["cost"].values())
    lines.append(f"Cost: {items:,} searches, {steps:,} image-steps, {seconds:.0f} s. {record['notes'][1]}")
    return "\n".join([*lines, ""])


def table(claims: Sequence[dict[str, Any]]) -> list[str]:
    """The claims as a table: each network's value with its interval, the null, and whether the difference holds."""
    networks = list(dict.fromkeys(name for claim in claims for name in claim["of"]))
    words = {"model": "robust", "baseline": "standard", "other": "third network"}
    heads = ["quantity", *(words.get(name, name) for name in networks), "difference", "random pairs", "robust better?"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for claim in claims:
        values = [_interval(claim["of"].get(name)) for name in networks]
        nulls = ", ".join(f"{claim['null'][name]['value']:.3g}" for name in networks if name in claim["null"])
        verdict = {True: "yes", False: "**no**", None: ""}[claim["holds"]]
        title = f"{claim['quantity']} ({claim['statistic']}, n={claim['n']})"
        cells = [title, *values, _interval(claim["difference"]), nulls, verdict]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _interval(value: dict[str, float] | None) -> str:
    return f"{value['value']:.3g} [{value['low']:.3g}, {value['high']:.3g}]" if value else ""


def pages(readme: str) -> tuple[str, str]:
    """The gallery's own page, and `readme` with its section, from the numbers in the folder."""
    records = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("figure-*.json")}
    names = sorted(records, key=lambda name: int(name.split("-")[1]))
    head = ["# Gallery", "", "Every figure recipe on the shipped CIFAR-10 networks, made by `make gallery`.", ""]
    own = "\n".join([*head, *(section(name, records[name], "") for name in names)])
    body = "\n".join(section(name, records[name], "deploy/gallery/") for name in names if name in MAIN)
    pattern = re.compile(f"({re.escape(MARKS[0])}).*?({re.escape(MARKS[1])})", re.DOTALL)
    return own, pattern.sub(lambda m: f"{m[1]}\n\n{body}\n{m[2]}", readme)


def run(client: Client, console: Console, names: Sequence[str], folder: Path) -> None:
    """One recipe after the other, so that each one's time is its own."""
    for name in names:
        job = client.recipe(name, **COMMON, **BODIES[name])
        paths = download(client, follow(client, job, console), name, folder)
        record = json.loads(paths["numbers.json"].read_text())
        del record["items"]  # every item's numbers: in the service, too long for the gallery
        paths["numbers.json"].write_text(json.dumps(record, indent=1) + "\n")
        for extra in ("figure.pdf", "numbers.csv"):
            paths[extra].unlink()


def gallery(
    names: Annotated[list[str] | None, typer.Argument(help="Figures; left out: all")] = None,
    pages_only: Annotated[bool, typer.Option(help="Only write the pages again")] = False,
) -> None:
    """Run the recipes in a fresh embedded service and write the gallery."""
    logs.configure("console", "WARNING")
    if not pages_only:
        with tempfile.TemporaryDirectory() as data:
            settings = Settings(data_dir=Path(data), port=0, heartbeat_seconds=1, auth="off")
            with connected(None, settings) as client:
                run(client, Console(), names or list(BODIES), FOLDER)
    readme = ROOT / "README.md"
    own, whole = pages(readme.read_text())
    (FOLDER / "README.md").write_text(own)
    readme.write_text(whole)


if __name__ == "__main__":
    typer.run(gallery)
