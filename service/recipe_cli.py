"""`robustreps recipe`: one of the paper's figures as one command, in this process or on a running service."""

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from service import logs
from service.cli import running, serving
from service.client import ApiError, Client
from service.recipes import RECIPES
from service.schemas import LONGEST_LIST
from service.settings import Settings, get_settings

FILES = ("figure.png", "figure.pdf", "numbers.json", "numbers.csv")
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".npy"}
SPEC = "DATASET:0-7,12, patterns:stripes,text, a file or a folder; may be given several times"


@contextmanager
def connected(api: str | None, settings: Settings) -> Iterator[Client]:
    """A client of the service at `api`, or of one in this process for as long as the block lasts."""
    if api is not None:
        with Client(api) as client:
            yield client
    else:
        with serving(settings) as server, running(server) as url, Client(url) as client:
            yield client


@contextmanager
def one_line() -> Iterator[None]:
    """What was asked for and cannot be had ends the command with a line, not with a traceback."""
    try:
        yield
    except httpx2.TransportError as e:
        sys.exit(f"the service cannot be reached: {e}")
    except (typer.BadParameter, ApiError, OSError) as e:
        sys.exit(str(e))


def parsed(spec: str) -> dict[str, Any] | list[Path]:
    """What the command line names as the API takes it, or the files to upload. Raises typer.BadParameter."""
    path = Path(spec)
    if os.path.exists(spec):  # noqa: PTH110 - Path.exists raises for a list of indices longer than a file's name
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES) if path.is_dir() else [path]
        if not files:
            raise typer.BadParameter(f"{spec} holds no picture; looked for {', '.join(sorted(PICTURES))}")
        return files
    name, colon, rest = spec.partition(":")
    if not colon or not rest:
        raise typer.BadParameter(f"{spec} is no file; allowed: {SPEC}")
    if name == "patterns":
        return {"source": "patterns", "patterns": rest.split(",")}
    ranges = [re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", each) for each in rest.split(",")]
    spans = [range(int(found[1]), int(found[2] or found[1]) + 1) for found in ranges if found]
    if len(spans) < len(ranges) or not all(spans):
        raise typer.BadParameter(f"{rest} is no list of indices, such as 0-7,12")
    if (asked := sum(map(len, spans))) > LONGEST_LIST:
        raise typer.BadParameter(f"{rest} is {asked:,} indices; allowed: {LONGEST_LIST:,}")
    return {"source": "dataset", "dataset": name, "indices": [i for span in spans for i in span]}


def source(client: Client, named: Sequence[dict[str, Any] | list[Path]]) -> dict[str, Any]:
    """Parsed specifications as one source; files are uploaded. Raises typer.BadParameter."""
    found = [
        {"source": "images", "images": [_upload(client, file) for file in each]} if isinstance(each, list) else each
        for each in named
    ]
    return found[0] if len(found) == 1 else {"source": "mixed", "parts": found}


def _upload(client: Client, file: Path) -> str:
    try:
        return client.upload(file.read_bytes())
    except ApiError as e:
        raise typer.BadParameter(f"{file}: {e}") from e


def overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """NAME=JSON, or NAME=word. Raises typer.BadParameter."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair} is not NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def follow(client: Client, job: dict[str, Any], console: Console) -> dict[str, Any]:
    """Wait for a recipe's job under a progress bar; answers its one item. Exits if it did not succeed."""
    columns = (TextColumn("{task.description}"), BarColumn(40), TextColumn("{task.percentage:3.0f}%"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task(job["parameters"]["recipe"], total=1.0)
        ended = client.wait(
            job["id"], on_poll=lambda seen: progress.update(bar, completed=seen["progress"]["fraction"])
        )
    item = next(client.items(job["id"]))
    if ended["state"] != "succeeded":
        failed = [p["id"] for p in map(client.job, ended["parts"].values()) if p["state"] != "succeeded"]
        sys.exit(f"{job['id']} ended as {ended['state']}: {item['error']}; parts that did not succeed: {failed}")
    return item


def download(client: Client, item: dict[str, Any], stem: str, folder: Path) -> dict[str, Path]:
    """The figure and its numbers as STEM.png, .pdf, .json and .csv."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name in FILES:
        paths[name] = folder / f"{stem}{Path(name).suffix}"
        paths[name].write_bytes(client.artifact(item, name))
    return paths


def report(claims: Sequence[dict[str, Any]], console: Console) -> None:
    """Each claim in a line."""
    for claim in claims:
        verdict = {True: "holds", False: "does not hold", None: ""}[claim["holds"]]
        values = ", ".join(f"{k} {v['value']:.3g} [{v['low']:.3g}, {v['high']:.3g}]" for k, v in claim["of"].items())
        console.print(
            f"{claim['quantity']} ({claim['statistic']}): {values} {verdict}", highlight=False, soft_wrap=True
        )


Images = Annotated[list[str] | None, typer.Option(help=SPEC)]


def recipe(
    name: Annotated[str, typer.Argument(help=f"{next(iter(RECIPES))}, ...: see /v1/recipes")],
    model: Annotated[str, typer.Option(help="The network, usually the robust one")],
    baseline: Annotated[str | None, typer.Option(help="What to compare it with; left out: its twin")] = None,
    images: Images = None,
    starts: Images = None,
    first: Images = None,
    second: Images = None,
    preset: Annotated[str, typer.Option(help="paper, notebook, or cifar for 32 x 32 pixels")] = "paper",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any other field of the recipe, as NAME=JSON")
    ] = None,
    api: Annotated[str | None, typer.Option(help="A running service; left out: compute in this process")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the figure and its numbers")] = Path(),
) -> None:
    """Run one of the paper's figures from end to end, and keep the figure and its numbers."""
    logs.configure("console", level="WARNING")
    console = Console()
    with one_line():
        if name not in RECIPES:
            raise typer.BadParameter(f"no recipe {name}; allowed: {', '.join(RECIPES)}")
        given = {"images": images, "starts": starts, "first": first, "second": second}
        named = {field: [parsed(spec) for spec in specs] for field, specs in given.items() if specs}
        body: dict[str, Any] = {"model": model, "preset": preset, **({"baseline": baseline} if baseline else {})}
        body |= overrides(settings or [])
        with connected(api, get_settings().model_copy(update={"port": 0, "heartbeat_seconds": 1})) as client:
            sources = {field: source(client, each) for field, each in named.items()}
            job = client.request("POST", f"/v1/recipes/{name}", json=sources | body).json()
            for warning in job["warnings"]:
                console.print(f"[yellow]{warning}", soft_wrap=True)
            item = follow(client, job, console)
            paths = download(client, item, name, out)
            record = json.loads(client.artifact(item, "numbers.json"))
    report(record["claims"], console)
    console.print("\n".join(str(path) for path in paths.values()), highlight=False, soft_wrap=True)
