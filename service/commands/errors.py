"""`robustreps errors`, `failed`, and in a few lines why a job did not succeed."""

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import typer

from service.client import Client, Job
from service.commands.completion import jobs as complete_jobs
from service.commands.terminal import MOST_ERRORS, All, Terminal, escaped, some, spoken, when

Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="So many")]


def reasons(client: Client, job: Job) -> Iterator[str]:
    """Why a job, or some of it, failed: its error, and the first of its entries' and items', the rest counted."""
    if job["error"]:
        yield told(job["error"])
    if invalid := (job.get("planning") or {}).get("invalid", 0):
        first = client.json("GET", f"/v1/jobs/{job['id']}/errors", params={"limit": MOST_ERRORS})["errors"]
        yield from (f"entry {e['entry']}: {e['field']}: {e['message']}" for e in first)
        yield from _rest(invalid - len({e["entry"] for e in first}), "entries", job)
    if failed := job["items"]["failed"]:
        asked = {"job": job["id"], "limit": MOST_ERRORS}
        letters = client.json("GET", "/v1/dead-letters", params=asked)["dead_letters"]
        yield from (f"item {letter['index']}: {told(letter['error'])}" for letter in letters)
        yield from _rest(failed - len(letters), "items", job)


def _rest(more: int, what: str, job: Job) -> Iterator[str]:
    if more > 0:
        yield f"and {more:,} more {what}: robustreps errors {job['id']}"


def told(error: dict[str, Any] | None) -> str:
    """An error's title and detail."""
    return ": ".join(str(error[name]) for name in ("title", "detail") if error.get(name)) if error else ""


@spoken
def errors(
    terminal: Terminal,
    job: Annotated[str, typer.Argument(help="The job", autocompletion=complete_jobs)],
    limit: Limit = 100,
    everything: All = False,
) -> None:
    """List what was wrong with entries that a job was asked to invert, and with its items that failed.

    With --json a line for each: an entry's, or an item's as `failed` has it.
    """
    entries, items = partial(terminal.client.errors, job), partial(terminal.client.dead_letters, job=job)
    terminal.listing(("of", "error"), some(None if everything else limit, entries, items), _of_job)


def _of_job(each: dict[str, Any]) -> tuple[str, str]:
    if "entry" in each:
        return f"entry {each['entry']}", escaped(f"{each['field']}: {each['message']}")
    return f"item {each['index']}", escaped(told(each["error"]))


@spoken
def failed(
    terminal: Terminal,
    title: Annotated[str, typer.Option(help="Only errors with this title")] = "",
    limit: Limit = 50,
    everything: All = False,
) -> None:
    """List the failed items of all jobs, newest first.

    With --json a line for each, as the API has it.
    """
    listed = partial(terminal.client.dead_letters, **({"title": title} if title else {}))
    terminal.listing(("job", "item", "kind", "finished", "error"), some(None if everything else limit, listed), _of_all)


def _of_all(each: dict[str, Any]) -> tuple[Any, ...]:
    return each["job"], each["index"], each["kind"], when(each["finished_at"]), escaped(told(each["error"]))
