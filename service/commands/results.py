"""`robustreps results`: what a job found, as a list or as files."""

import tarfile
import zipfile
from pathlib import Path
from typing import Annotated, Any

import typer

from service.client import TERMINAL
from service.commands.completion import jobs as complete_jobs
from service.commands.terminal import FAILED, Terminal, coloured, escaped, said, spoken
from service.remote.pictures import UsageError
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
    items: Annotated[str, typer.Option(help="With --out or --archive: only these, such as 0-99,200")] = "",
    where: Annotated[
        list[str] | None, typer.Option(help="Only items whose metric is so: 'ssim>0.5'; several times")
    ] = None,
    table: Annotated[str, typer.Option(help="Print every item and metric, as csv or jsonl")] = "",
) -> None:
    """List what a job found, an item a line, or download it: every file's digest is checked, and a download goes on.

    With --json a line for each item as the API has it, or for each file that was downloaded.
    """
    found = terminal.client.results(job, metric=where or [])
    if where and (shards or archive is not None or table):
        raise UsageError("--where chooses what is listed, or what --out without --shards downloads")
    if items and (shards or (out is None and archive is None)):
        raise UsageError("--items chooses what --archive, or --out without --shards, downloads")
    if shards and (out is None or archive is not None or name):
        raise UsageError("--shards downloads whole tars: it goes with --out, and without --name")
    if archive is not None:
        done(terminal, [found.archive(archive, items, name or [])], archive)
        if not packed(archive):
            lacking(terminal, found, name or [], items)
    elif out is not None:
        saved(terminal, found, out, name or [], shards, items)
    elif table:
        with terminal.client.stream("GET", f"/v1/jobs/{job}/table", params={"format": table}) as response:
            for text in response.iter_text():
                typer.echo(text, nl=False)
    elif terminal.as_json:
        for item in found:
            terminal.line(item)
    else:
        listed(terminal, found)


def saved(terminal: Terminal, found: Results, out: Path, names: list[str], shards: bool, items: str) -> None:
    """Download, under a count of the files."""
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.completed:,.0f} files"), TimeElapsedColumn())
    with Progress(*columns, console=terminal.side, disable=terminal.as_json) as progress:
        bar = progress.add_task("", total=None)

        def count(_: Path) -> None:
            progress.advance(bar)

        paths = found.save_shards(out, count) if shards else found.save(out, names, count, items)
    done(terminal, paths, out)
    taken_over = (terminal.client.job(found.job_id)["planning"] or {}).get("reused", 0) if shards else 0
    if taken_over:
        typer.echo(
            f"{taken_over:,} items were taken over from earlier jobs, in whose tars their files are: items.parquet says"
            " by key in which; --archive, and --out without --shards, have them too",
            err=True,
        )
    if not paths:
        lacking(terminal, found, names, items)


def packed(archive: Path) -> bool:
    """Whether an archive has a file of an item."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            return any(name.startswith("items/") for name in zipped.namelist())
    with tarfile.open(archive) as tar:
        return any(member.name.startswith("items/") for member in tar)


def lacking(terminal: Terminal, found: Results, names: list[str], items: str) -> None:
    """Says why there was nothing to download, and ends with 1."""
    which = f"none of the items {items}" if items else "no item"
    if not (allowed := found.names()):
        state = terminal.client.job(found.job_id)["state"]
        why = f"{found.job_id} is {state}, and no item has a file{'' if state in TERMINAL else ' yet'}"
    elif names:
        why = f"{which} has a file {' or '.join(names)}; allowed: {', '.join(allowed)}"
    else:
        why = f"{which} has a file" if items else "no item's files lie in a tar of this job"
    said(f"nothing to download: {why}", terminal.as_json)
    raise typer.Exit(FAILED)


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
