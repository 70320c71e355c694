"""A job's progress as it is waited for: a bar in a terminal, and in a notebook."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

Show = Callable[[dict[str, Any]], None]
"""Takes a job as it is now."""


def over(job: dict[str, Any]) -> int:
    """How many items were computed, with or without success; cancelled ones were not."""
    return int(job["items"]["succeeded"] + job["items"]["failed"])


def described(job: dict[str, Any]) -> str:
    """What a job is, and how many of its items are done."""
    items, planning = job["items"], job.get("planning")
    if planning and job["state"] == "validating":
        of = "" if planning["total"] is None else f" of {planning['total']:,}"
        return f"{job['kind']} planned, {planning['entries']:,}{of} entries"
    return f"{job['kind']} {job['state'].replace('_', ' ')}, {over(job):,} of {items['total']:,} items"


@contextmanager
def shown(console: "Console | None" = None) -> Iterator[Show]:
    """Shows each job that it is given, as it is now, in a line of its own, until the block ends."""
    from rich import get_console

    console = console or get_console()
    if console.is_jupyter:
        yield _in_notebook()
    else:
        with _in_terminal(console) as show:
            yield show


@contextmanager
def _in_terminal(console: "Console") -> Iterator[Show]:
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    bars: dict[str, TaskID] = {}
    columns = (TextColumn("{task.description}"), BarColumn(30), TextColumn("{task.percentage:3.0f}%"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:

        def show(job: dict[str, Any]) -> None:
            bar = bars.setdefault(job["id"], TaskID(-1))
            if bar < 0:
                bar = bars[job["id"]] = progress.add_task("", total=1.0)
            progress.update(bar, completed=job["progress"]["fraction"], description=described(job))

        yield show


def _in_notebook() -> Show:
    """By plain HTML that is shown anew in its place, for which no widgets need be installed."""
    from html import escape
    from importlib import import_module

    display = import_module("IPython.display")
    handles: dict[str, Any] = {}

    def show(job: dict[str, Any]) -> None:
        fraction = job["progress"]["fraction"]
        bar = f'<progress max="1" value="{fraction:.3f}"></progress>'
        html = display.HTML(f"{bar} {fraction:.0%} {escape(described(job))}")
        if job["id"] in handles:
            handles[job["id"]].update(html)
        else:
            handles[job["id"]] = display.display(html, display_id=True)

    return show
