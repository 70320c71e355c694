"""`robustreps status`, `watch`, `cancel`, `pause`, `resume`, `retry`, `delete`, `open`."""

from collections.abc import Callable
from itertools import islice
from typing import Annotated, Any

import typer

from service.client import TERMINAL, ApiError, Client, Job
from service.commands.completion import jobs as complete_jobs
from service.commands.errors import reasons
from service.commands.terminal import FAILED, All, Terminal, coloured, escaped, spoken, when
from service.remote.progress import over, shown

ids = typer.Argument(metavar="JOB", help="Ids of jobs", autocompletion=complete_jobs)
JobIds = Annotated[list[str], ids]


@spoken
def status(
    terminal: Terminal,
    jobs: Annotated[list[str] | None, ids] = None,
    state: Annotated[list[str] | None, typer.Option(help="Only in this state; several times")] = None,
    kind: Annotated[str, typer.Option(help="Only of this kind")] = "",
    label: Annotated[list[str] | None, typer.Option(metavar="KEY[=VALUE]", help="Only so labelled; all hold")] = None,
    text: Annotated[str, typer.Option(help="Only with this text in them")] = "",
    after: Annotated[str, typer.Option(metavar="TIME", help="Only made since, such as 2030-01-31T12:00:00Z")] = "",
    before: Annotated[str, typer.Option(metavar="TIME", help="Only made before")] = "",
    parts: Annotated[bool, typer.Option("--parts", help="Also the parts of recipes")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="So many of the newest")] = 50,
    everything: All = False,
) -> None:
    """List jobs, newest first, or say how some stand.

    With --json a list of jobs, as the API answers them.
    """
    asked = {
        "state": state,
        "kind": kind,
        "label": label,
        "text": text,
        "created_after": after,
        "created_before": before,
    }
    filters = {name: value for name, value in asked.items() if value} | ({} if parts else {"top_level": True})
    if jobs:
        found = [terminal.client.job(job) for job in jobs]
    else:
        listed = terminal.client.jobs(**filters, limit=500 if everything else min(limit, 500))
        found = list(listed if everything else islice(listed, limit))
    if terminal.as_json:
        terminal.document(found)
    elif jobs:
        for job in found:
            describe(terminal, job)
    else:
        rows = [[j["id"], coloured(j["state"]), j["kind"], done(j), model(j), when(j["created_at"])] for j in found]
        terminal.table(("id", "state", "kind", "items", "model", "submitted"), rows)


@spoken
def watch(terminal: Terminal, jobs: JobIds) -> None:
    """Follow jobs until all are over; the status is 1 if one did not succeed.

    With --json a line for each change of each.
    """
    follow(terminal, jobs)


def follow(terminal: Terminal, jobs: list[str]) -> None:
    """Show how jobs come along until all are over, and why they failed; exits with 1 if one did not succeed."""
    last: dict[str, Job] = {}
    if terminal.as_json:
        for job in terminal.client.follow(*jobs):
            if last.get(job["id"]) != job:
                terminal.line(job)
            last[job["id"]] = job
    else:
        with shown(terminal.side) as show:
            for job in terminal.client.follow(*jobs):
                show(job)
                last[job["id"]] = job
        for job in last.values():
            terminal.console.print(f"{job['id']} {coloured(job['state'])}")
            for reason in reasons(terminal.client, job):
                terminal.side.print(f"  [red]{escaped(reason)}[/]")
    if any(job["state"] != "succeeded" for job in last.values()):
        raise typer.Exit(FAILED)


def _each(name: str, change: Callable[[Client, str], Any], help_: str, past: str) -> Callable[..., None]:
    """A command that changes each job that it is given, and goes on past those that the API refuses to change."""

    def command(terminal: Terminal, jobs: JobIds) -> None:
        every(terminal, jobs, change, past)

    command.__name__, command.__doc__ = name, help_
    return spoken(command)


def every(terminal: Terminal, jobs: list[str], change: Callable[[Client, str], Any], past: str) -> None:
    """Change each job. Raises the first refusal, once all others are changed."""
    answers, refusal = [], None
    for job in jobs:
        try:
            answers.append(change(terminal.client, job) or {"id": job, "state": past})
        except ApiError as e:
            refusal = refusal or e
        else:
            if not terminal.as_json:
                terminal.console.print(f"{job} {coloured(answers[-1]['state'])}")
    if terminal.as_json:
        terminal.document(answers)
    if refusal:
        raise refusal


cancel = _each("cancel", Client.cancel, "Stop jobs, and recipes with their parts; what is finished stays.", "cancelled")
pause = _each("pause", Client.pause, "Have workers keep where jobs stand, and let go of them.", "paused")
resume = _each("resume", Client.resume, "Go on with paused jobs where they stood.", "queued")
retry = _each("retry", Client.retry, "Compute the failed items of jobs again.", "queued")


@spoken
def delete(
    terminal: Terminal,
    jobs: JobIds,
    cancel: Annotated[bool, typer.Option("--cancel", help="Also those that are still going")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
) -> None:
    """Remove jobs with all their results, for good."""
    if not yes:
        typer.confirm(f"Remove {len(jobs)} job{'s' * (len(jobs) > 1)} with all results?", abort=True, err=True)
    every(terminal, jobs, lambda client, job: client.delete(job, cancel), "deleted")


@spoken
def open_page(
    terminal: Terminal,
    job: Annotated[str, typer.Argument(help="A job; left out: all", autocompletion=complete_jobs)] = "",
    show: Annotated[bool, typer.Option("--browser/--no-browser", help="Also in a browser")] = True,
) -> None:
    """Print the dashboard's or a job's on it, and show it in a browser."""
    url = f"{terminal.client.url}/ui/" + (f"jobs/{job}" if job else "")
    terminal.document(url) if terminal.as_json else typer.echo(url)
    if show:
        typer.launch(url)


def describe(terminal: Terminal, job: Job) -> None:
    """One job in a few lines."""
    say = terminal.console.print
    say(f"[bold]{job['id']}[/] {job['kind']} {coloured(job['state'])}")
    lines = {
        "model": model(job), "description": job.get("description"), "labels": labels(job), "items": done(job),
        "progress": _progress(job), "waiting": _waiting(job), "submitted": when(job["created_at"]),
        "finished": when(job["finished_at"]), "deadline": when(job["deadline"]), "expires": when(job.get("expires_at")),
        "priority": "" if job["priority"] == "normal" else job["priority"],
        "parts": ", ".join(f"{label} {part}" for label, part in job["parts"].items()),
    }  # fmt: skip
    for name, value in lines.items():
        if value:
            say(f"  {name:<12} {escaped(value)}")
    for warning in job["warnings"]:
        say(f"  [yellow]{escaped(warning)}[/]")
    for reason in reasons(terminal.client, job):
        say(f"  [red]{escaped(reason)}[/]")


def _progress(job: Job) -> str:
    progress = job["progress"]
    eta, rate = progress["eta_seconds"], progress["rate"]
    parts = [
        f"{progress['fraction']:.0%}",
        f"{rate:,.0f} image-steps/s" if rate else "",
        f"{eta:,.0f} s left" if eta else "",
    ]
    return "" if job["state"] in TERMINAL else ", ".join(part for part in parts if part)


def _waiting(job: Job) -> str:
    waiting = job.get("waiting") or {}
    return ": ".join(str(waiting[name]) for name in ("reason", "detail") if waiting.get(name))


def done(job: Job) -> str:
    """How many items are done, and failed."""
    items = job["items"]
    return f"{over(job):,}/{items['total']:,}" + (f", {items['failed']:,} failed" if items["failed"] else "")


def labels(job: Job) -> str:
    return ", ".join(f"{key}={value}" if value else key for key, value in (job.get("labels") or {}).items())


def model(job: Job) -> str:
    """The network, as a summary or the parameters have it."""
    return str(job.get("model") or job.get("parameters", {}).get("model") or "")
