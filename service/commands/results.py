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
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Download into this folder")] = None,
    name: Annotated[list[str] | None, typer.Option(help="Only such files: result.png; several times")] = None,
    shards: Annotated[bool, typer.Option("--shards", help="With --out: tars of many items, and their table")] = False,
    archive: Annotated[Path | None, typer.Option(metavar="FILE", help="Download as one .zip or .tar")] = None,
    items: Annotated[str, typer.Option(help="With --archive: only these, such as 0-99,200")] = "",
    table: Annotated[str, typer.Option(help="Print every item and metric, as csv or jsonl")] = "",
) -> None:
    """List what a job found, an item a line, or download it: every file's digest is checked, and a download goes on.

    With --json a line for each item as the API has it, or for each file that was downloaded.
    """
    found = terminal.client.results(job)
    if archive is not None:
        done(terminal, [found.archive(archive, items, name or [])], archive)
    elif out is not None:
        saved(terminal, found, out, name or [], shards)
    elif table:
        with terminal.client.stream("GET", f"/v1/jobs/{job}/table", params={"format": table}) as response:
            for text in response.iter_text():
                typer.echo(text, nl=False)
    elif terminal.as_json:
        for item in found:
            terminal.line(item)
    else:
        listed(terminal, found)


def saved(terminal: Terminal, found: Results, out: Path, names: list[str], shards: bool) -> None:
    """Download, under a count of the files."""
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.completed:,.0f} files"), TimeElapsedColumn())
    with Progress(*columns, console=terminal.side, disable=terminal.as_json) as progress:
        bar = progress.add_task("", total=None)

        def count(_: Path) -> None:
            progress.advance(bar)

        done(terminal, found.save_shards(out, count) if shards else found.save(out, names, count), out)


def done(terminal: Terminal, paths: list[Path], where: Path) -> None:
    """Say what was downloaded."""
    for path in paths if terminal.as_json else ():
        terminal.line(str(path))
    if not terminal.as_json:
        typer.echo(f"{len(paths):,} file{'s' * (len(paths) != 1)} in {where}")


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
