"""`robustreps models`, `datasets`, `workers`, `upload`: what jobs can name, and who computes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.completion import datasets as complete_datasets
from service.commands.completion import models as complete_models
from service.commands.submit import Key, Watch, overrides, read, submitted
from service.commands.terminal import Api, Json, Set, Terminal, coloured, escaped, spoken, when
from service.remote.pictures import UsageError
from service.remote.sources import files

Request = Annotated[str, typer.Argument(help="The request as JSON or YAML; -: from standard input")]
models = typer.Typer(help="List, show and register networks.", invoke_without_command=True)
datasets = typer.Typer(help="List, show and register data sets.", invoke_without_command=True)


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _list_models(terminal: Terminal) -> None:
    cards = terminal.client.models()
    if terminal.as_json:
        return terminal.document(cards)
    rows = [
        (c["name"], c["architecture"], f"{c['input_size']} px", len(c["classes"]), percent(c["clean_accuracy"]),
         percent(c["pgd20_accuracy"]), escaped(c["title"]))
        for c in cards
    ]  # fmt: skip
    return terminal.table(("name", "architecture", "input", "classes", "clean", "PGD-20", "title"), rows)


def _list_datasets(terminal: Terminal) -> None:
    cards = terminal.client.datasets()
    if terminal.as_json:
        return terminal.document(cards)
    rows = [
        (c["name"], f"{c['size']:,}", f"{c['image_size']} px" if c["image_size"] else "several", len(c["classes"]),
         escaped(c["title"]))
        for c in cards
    ]  # fmt: skip
    return terminal.table(("name", "images", "size", "classes", "title"), rows)


def show(terminal: Terminal, card: dict[str, Any]) -> None:
    """A card, a field a line; long lists are counted."""
    if terminal.as_json:
        return terminal.document(card)
    for name, value in card.items():
        long = isinstance(value, list | dict) and len(value) > 12
        terminal.console.print(f"{name:<18} {f'{len(value)} entries' if long else escaped(value)}")
    return None


def _group(group: typer.Typer, path: str, listed: Callable[[Terminal], None], names: Callable[..., list[str]]) -> None:
    """`list`, `show` and `register`; the group by itself lists."""

    every = spoken(listed)
    group.command("list", help="List them.")(every)

    @group.callback()
    def _alone(ctx: typer.Context, api: Api = "", as_json: Json = False) -> None:
        if ctx.invoked_subcommand is None:
            every(ctx, api=api, as_json=as_json)

    @group.command("show", help="Show the card of one.")
    @spoken
    def _show(terminal: Terminal, name: Annotated[str, typer.Argument(autocompletion=names)]) -> None:
        show(terminal, terminal.client.json("GET", f"{path}/{name}"))

    @group.command("register", help=f"Have one checked and registered by a job: POST {path}.")
    @spoken
    def _register(
        terminal: Terminal, file: Request = "", settings: Set = None, key: Key = "", watch: Watch = False
    ) -> None:
        body = (read(file) if file else {}) | overrides(settings or [])
        register = terminal.client.register_model if path == "/v1/models" else terminal.client.register_dataset
        submitted(terminal, register(key or None, **body), watch)


_group(models, "/v1/models", _list_models, complete_models)
_group(datasets, "/v1/datasets", _list_datasets, complete_datasets)


@spoken
def workers(terminal: Terminal) -> None:
    """List the worker processes, and whether they are alive."""
    found = terminal.client.workers()
    if terminal.as_json:
        return terminal.document(found)
    rows = [
        (w["id"], coloured(w["state"]), w["host"], w["device"], len(w["shards"]), _rate(w), when(w["seen_at"]))
        for w in found
    ]
    return terminal.table(("id", "state", "host", "device", "shards", "image-steps/s", "seen"), rows)


def _rate(worker: dict[str, Any]) -> str:
    rate = worker["image_steps_per_second"]
    return "" if rate is None else f"{rate:,.0f}"


KINDS = ("image", "tensor", "checkpoint", "manifest")


@spoken
def upload(
    terminal: Terminal,
    paths: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files, or folders of images")],
    kind: Annotated[str, typer.Option(help=", ".join(KINDS))] = "image",
) -> None:
    """Store images, checkpoints or manifests, and print the id of each, by which requests name it."""
    if kind not in KINDS:
        raise UsageError(f"{kind} is no kind of upload; allowed: {', '.join(KINDS)}")
    for file in [file for path in paths for file in files(path)]:
        stored = terminal.client.upload_file(file, kind)
        terminal.line({"file": str(file), "id": stored}) if terminal.as_json else typer.echo(f"{stored}  {file}")
