"""`robustreps results`: what a job found, as a list or as files."""

from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.completion import jobs as complete_jobs
from service.commands.terminal import Terminal, coloured, escaped, spoken
from service.remote.results import Results

SHOWN = ("relative_distance", "pixel_l2", "ssim", "activation", "judge_agrees", "clean_accuracy")
"""Metrics that a list has a column for, where a job has them."""


@spoken
def results(
    terminal: Terminal,
    job: Annotated[str, typer.Argument(help="The job", autocompletion=complete_jobs)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Download into this folder; goes on, if it did")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="Only files so called, such as result.png; several times")
    ] = None,
) -> None:
    """List what a job found, an item a line, or download it: every file's digest is checked.

    With --json a line for each item as the API has it, or for each file that was downloaded.
    """
    found = terminal.client.results(job)
    if out is not None:
        saved(terminal, found, out, name or [])
    elif terminal.as_json:
        for item in found:
            terminal.line(item)
    else:
        listed(terminal, found)


def saved(terminal: Terminal, found: Results, out: Path, names: list[str]) -> None:
    """Download, under a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    wanted = sum(not names or each["name"] in names for item in found for each in item["artifacts"])
    columns = (TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal.side, disable=terminal.as_json) as progress:
        bar = progress.add_task("files", total=wanted)
        paths = found.save(out, names, lambda _: progress.advance(bar))
    for path in paths if terminal.as_json else ():
        terminal.line(str(path))
    if not terminal.as_json:
        typer.echo(f"{len(paths):,} files in {out}")


def listed(terminal: Terminal, found: Results) -> None:
    """An item a row, with the metrics that the job has."""
    rows = list(found.rows())
    columns = [metric for metric in SHOWN if any(metric in row for row in rows)]
    named = [
        _row(row, columns, [each["name"] for each in item["artifacts"]]) for row, item in zip(rows, found, strict=True)
    ]
    terminal.table(("item", "state", "label", *columns, "files or error"), named)


def _row(row: dict[str, Any], columns: list[str], files: list[str]) -> list[Any]:
    values = [row.get(column) for column in columns]
    numbers = [f"{value:.4g}" if isinstance(value, float) else value for value in values]
    last = row["error"] or ", ".join(files)
    return [row["item"], coloured(row["state"]), escaped(row.get("label") or ""), *numbers, escaped(last)]
