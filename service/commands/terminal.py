"""What the commands of a client share: where the API is, how they print, and with which status they end."""

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated, Any

import httpx2
import typer

from service.client import ApiError, Client, DigestError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

FAILED, USAGE, REFUSED, UNREACHABLE = 1, 2, 3, 4
"""Statuses beside 0: a job did not succeed, what was asked cannot be, the API said no, the API is not there."""

MOST_ERRORS = 10
"""So many of one kind are shown, and the rest counted."""

Api = Annotated[str, typer.Option("--api", metavar="URL", help="The service's address; left out: ROBUSTREPS_API")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: one document, or a line each where things happen")]
LONGEST = 500
"""Most entries that the API answers at once."""

All = Annotated[bool, typer.Option("--all", help="All of them")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=JSON", help="Any field; several times")]
COLOURS = {
    "succeeded": "green", "partially_succeeded": "yellow", "failed": "red", "expired": "red", "cancelled": "magenta",
    "running": "cyan", "finalizing": "cyan", "paused": "yellow", "alive": "green", "silent": "red",
}  # fmt: skip


@dataclass(frozen=True)
class Terminal:
    """A client, and where to print what it answers."""

    client: Client
    as_json: bool

    @cached_property
    def console(self) -> "Console":
        """Where answers go."""
        return console()

    @cached_property
    def side(self) -> "Console":
        """For people only: progress and warnings."""
        return console(stderr=True)

    def document(self, value: Any) -> None:
        """One JSON document."""
        typer.echo(json.dumps(value, indent=2 if sys.stdout.isatty() else None))

    def line(self, value: Any) -> None:
        """One line of JSON lines."""
        typer.echo(json.dumps(value))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """A line a row, whose last column is cut to the terminal's width; by pages where it is longer than that."""
        from contextlib import nullcontext

        from rich.table import Table
        from rich.text import Text

        cells = [[Text.from_markup("" if cell is None else str(cell)) for cell in row] for row in rows]
        widths = [max([len(name), *(row[place].cell_len for row in cells)]) for place, name in enumerate(columns)]
        room = self.console.width - sum(widths[:-1]) - 2 * len(columns)
        shown = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in cells:
            row[-1].truncate(max(room, len(columns[-1])), overflow="ellipsis")
            shown.add_row(*row)
        long = self.console.is_terminal and shown.row_count + 3 > self.console.height
        with self.console.pager(styles=True) if long else nullcontext():
            self.console.print(shown)

    def listing(self, columns: Sequence[str], found: Iterable[Any], row: Callable[[Any], Sequence[Any]]) -> None:
        """A row for each; with --json a line for each."""
        if not self.as_json:
            return self.table(columns, map(row, found))
        for each in found:
            self.line(each)
        return None


def some(limit: int | None, *lists: Callable[..., Iterable[Any]]) -> Iterator[Any]:
    """The first of the entries of lists, one after the other, in pages that are not much longer than need be."""
    return islice(chain.from_iterable(listed(limit=min(limit or LONGEST, LONGEST)) for listed in lists), limit)


def console(stderr: bool = False) -> "Console":
    """Text in which only what says so has a colour, and which is cut nowhere but in a terminal."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, soft_wrap=True)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, soft_wrap=True, width=100_000)


def coloured(state: str) -> str:
    """A state in its colour."""
    colour = COLOURS.get(state)
    return f"[{colour}]{state}[/{colour}]" if colour else state


def escaped(value: object) -> str:
    """Text of others, in which brackets mean nothing."""
    from rich.markup import escape

    return escape(str(value))


def when(time: str | None) -> str:
    """A time of the API in the local zone, with its offset."""
    return datetime.fromisoformat(time).astimezone().isoformat(" ", "seconds") if time else ""


def given(ctx: Any, name: str) -> Any:
    """An option's value, from the command or from what stands before it: `robustreps --json models list`."""
    return ctx.params.get(name) or (given(ctx.parent, name) if ctx.parent else None)


def address(ctx: typer.Context) -> str:
    """The API's, as the command line or the settings have it."""
    from service.settings import get_settings

    return str(given(ctx, "api") or get_settings().api_url)


def spoken(command: Callable[..., None]) -> Callable[..., None]:
    """What is written as `command(terminal, ...)` as a command that also takes --api and --json."""

    def run(ctx: typer.Context, **values: Any) -> None:
        url, as_json = address(ctx), bool(given(ctx, "as_json"))
        own = {name: value for name, value in values.items() if name not in ("api", "as_json")}
        with ending(url, as_json), Client(url) as client:
            command(Terminal(client, as_json), **own)

    def parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    _, *own = inspect.signature(command).parameters.values()
    context = parameter("ctx", typer.Context, inspect.Parameter.empty)
    shared = [parameter("api", Api, ""), parameter("as_json", Json, False)]
    everything = [context, *(parameter(p.name, p.annotation, p.default) for p in own), *shared]
    run.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in everything}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


@contextmanager
def ending(url: str, as_json: bool) -> Iterator[None]:
    """Ends the command with a few lines, not with a traceback, where the API says no or is away, or a file is."""
    try:
        yield
    except ApiError as e:
        refused(e, as_json)
        raise typer.Exit(REFUSED) from e
    except (httpx2.TransportError, httpx2.InvalidURL) as e:
        said(f"the service cannot be reached at {url}: {e}", as_json)
        raise typer.Exit(UNREACHABLE) from e
    except DigestError as e:
        said(str(e), as_json)
        raise typer.Exit(FAILED) from e
    except BrokenPipeError:
        raise
    except (UsageError, OSError) as e:
        said(sentence(e), as_json)
        raise typer.Exit(USAGE) from e


def sentence(error: Exception) -> str:
    """What is wrong with what was asked for, without the numbers of the operating system."""
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"there is no file {error.filename}"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}"
    return str(error)


def refused(error: ApiError, as_json: bool) -> None:
    """What the API refused: a line for each of the first fields, and what is allowed there."""
    if as_json:
        return typer.echo(json.dumps({"error": error.problem}), err=True)
    side = console(stderr=True)
    title = f"[bold red]{escaped(error.problem.get('title', 'Refused'))}[/]"
    if not error.errors:
        return side.print(f"{title}: {escaped(error.problem.get('detail', ''))}")
    for field, message in error.errors[:MOST_ERRORS]:
        what, allowed, which = message.partition("; allowed: ")
        side.print(f"{title}: [bold]{escaped(field)}[/]: {escaped(what)}{allowed}[green]{escaped(which)}[/]")
    if (more := len(error.errors) - MOST_ERRORS) > 0:
        side.print(f"and {more:,} more")
    return None


def said(message: str, as_json: bool) -> None:
    """One line of what went wrong."""
    typer.echo(json.dumps({"error": {"detail": message}}) if as_json else message, err=True)
