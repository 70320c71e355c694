"""`robustreps update`: what of a job may be changed once it is there."""

from typing import Annotated, Any

import typer

from service.commands.completion import jobs as complete_jobs
from service.commands.jobs import describe
from service.commands.submit import labelled
from service.commands.terminal import Terminal, spoken
from service.remote.pictures import UsageError

NOTHING = "none"
"""Takes a value away."""


@spoken
def update(
    terminal: Terminal,
    job: Annotated[str, typer.Argument(help="The job", autocompletion=complete_jobs)],
    label: Annotated[list[str] | None, typer.Option(metavar="KEY[=VALUE]", help="Label it; several times")] = None,
    no_label: Annotated[list[str] | None, typer.Option(metavar="KEY", help="Take a label off; several times")] = None,
    description: Annotated[str | None, typer.Option(help="A note of your own; empty: none")] = None,
    priority: Annotated[str, typer.Option(help="low, normal, high")] = "",
    deadline: Annotated[str, typer.Option(metavar="TIME", help="When it ends, whatever is unfinished; or none")] = "",
    retention: Annotated[str, typer.Option(metavar="SECONDS", help="How long it is kept after its end; or none")] = "",
) -> None:
    """Change what a job is called, how urgent it is, when it ends, and how long it is kept."""
    labels = {**labelled(label or []), **dict.fromkeys(no_label or [])}
    plain = {"priority": priority, "deadline": deadline, "retention_seconds": retention}
    changes: dict[str, Any] = {name: _value(name, value) for name, value in plain.items() if value}
    if labels:
        changes["labels"] = labels
    if description is not None:
        changes["description"] = description or None
    if not changes:
        raise UsageError("nothing to change; allowed: --label, --no-label, --description, --priority, --deadline, ...")
    changed = terminal.client.update(job, **changes)
    terminal.document(changed) if terminal.as_json else describe(terminal, changed)


def _value(name: str, text: str) -> str | int | None:
    if name == "retention_seconds" and text != NOTHING:
        if not text.isdecimal():
            raise UsageError(f"--retention {text} is no number of seconds; allowed: such as 86400, or {NOTHING}")
        return int(text)
    return None if text == NOTHING else text
