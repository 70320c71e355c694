"""`robustreps recipe`: one of the paper's figures as one command, in this process or on a running service."""

import json
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
from service.client import ApiError, Client
from service.commands.completion import models as complete_models
from service.commands.submit import overrides
from service.commands.terminal import Api, Json, Set, Terminal, ending, escaped, given
from service.recipes import RECIPES
from service.remote.credentials import KEY_FILE
from service.remote.pictures import UsageError
from service.remote.sources import MADE, SPEC, parsed
from service.serving import running, serving
from service.settings import Settings, get_settings

FILES = ("figure.png", "figure.pdf", "numbers.json", "numbers.csv")
PROBED = 2.0
"""Seconds in which a service that is there answers."""


@contextmanager
def connected(api: str | None, settings: Settings) -> Iterator[Client]:
    """A client of the service at `api`, or of one in this process for as long as the block lasts."""
    if api is not None:
        with Client(api) as client:
            yield client
    else:
        with serving(settings) as server, running(server) as url, Client(url, key=own_key(settings)) as client:
            yield client


def own_key(settings: Settings) -> str | None:
    """Of the service in this process, whatever ROBUSTREPS_API_KEY has for another."""
    return (settings.data_dir / KEY_FILE).read_text() if settings.auth == "on" and settings.embedded else None


def answering(url: str) -> bool:
    """Whether a robustreps answers there."""
    try:
        with Client(url, PROBED) as client:
            client.pauses = ()
            found = client.json("GET", "/readyz")
            return isinstance(found, dict) and {"database", "storage", "broker"} <= found.keys()
    except (ApiError, httpx2.TransportError, httpx2.InvalidURL):
        return False


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
        console.print(f"{claim['quantity']} ({claim['statistic']}): {values} {verdict}", highlight=False)


Images = Annotated[list[str] | None, typer.Option(metavar="IMAGES", help=f"{SPEC}; several times")]


def recipe(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help=f"{next(iter(RECIPES))}, ...", autocompletion=lambda: list(RECIPES))],
    model: Annotated[str, typer.Option(help="The network, usually the robust one", autocompletion=complete_models)],
    baseline: Annotated[str, typer.Option(help="What to compare it with; left out: its twin")] = "",
    images: Images = None,
    starts: Images = None,
    first: Images = None,
    second: Images = None,
    preset: Annotated[str, typer.Option(help="paper, notebook, fast, or cifar for 32 x 32 pixels")] = "paper",
    settings: Set = None,
    api: Api = "",  # noqa: ARG001
    out: Annotated[Path, typer.Option(help="Folder for the figure and its numbers")] = Path(),
    as_json: Json = False,
) -> None:
    """Run one of the paper's figures from end to end, and keep the figure and its numbers.

    Without --api, and where ROBUSTREPS_API is not set, it asks the service at the settings' host and port; where none
    answers, it computes in this process.
    """
    logs.configure("console", "WARNING")
    body = {"model": model, "preset": preset} | ({"baseline": baseline} if baseline else {})
    sources = {"images": images, "starts": starts, "first": first, "second": second}
    as_json, own = bool(given(ctx, "as_json")), get_settings()
    url = given(ctx, "api") or own.api
    with ending(url or own.api_url, as_json):
        if name not in RECIPES:
            raise UsageError(f"no recipe {name}; allowed: {', '.join(RECIPES)}")
        body |= {field: spread(specs) for field, specs in sources.items() if specs} | overrides(settings or [])
        if not url and answering(own.api_url):
            url = own.api_url
        with connected(url or None, own.model_copy(update={"port": 0, "heartbeat_seconds": 1})) as client:
            draw(Terminal(client, as_json), name, body, out)


def draw(terminal: Terminal, name: str, body: dict[str, Any], out: Path) -> None:
    """Submit a recipe, wait, keep its files, and print them below what it says of each claim."""
    client = terminal.client
    job = client.recipe(name, **body)
    terminal.side.print(f"{job['id']} at {client.url}")
    for warning in job["warnings"]:
        terminal.side.print(f"[yellow]{escaped(warning)}[/]")
    item = follow(client, job, terminal.side)
    paths = [str(path) for path in download(client, item, name, out).values()]
    claims = json.loads(client.artifact(item, "numbers.json"))["claims"]
    if terminal.as_json:
        return terminal.document({"job": job["id"], "files": paths, "claims": claims})
    report(claims, terminal.console)
    return terminal.console.print("\n".join(paths))


def spread(specs: Sequence[str]) -> list[Any]:
    """Sources, and the files to upload, that a command line names. Raises UsageError."""
    found = [{"source": spec} if spec in MADE else parsed(spec) for spec in specs]
    return [one for each in found for one in (each if isinstance(each, list) else [each])]
