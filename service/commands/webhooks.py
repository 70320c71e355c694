"""`robustreps webhooks`: addresses that the service tells of what becomes of jobs."""

from functools import partial
from typing import Annotated, Any

import typer

from service.commands.catalog import show
from service.commands.completion import webhooks as complete_webhooks
from service.commands.errors import Limit
from service.commands.submit import labelled
from service.commands.terminal import All, Api, Json, Terminal, coloured, escaped, some, spoken, when

webhooks = typer.Typer(help="List, add and look at webhooks.", invoke_without_command=True)
Webhook = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Its id", autocompletion=complete_webhooks)]
Events = Annotated[list[str] | None, typer.Option("--event", help="job.succeeded, ...; left out: job.*; several times")]
Label = Annotated[list[str] | None, typer.Option(metavar="KEY[=VALUE]", help="Only of jobs so labelled; all hold")]


@spoken
def every(terminal: Terminal) -> None:
    """List them, newest first."""
    found = list(terminal.client.webhooks())
    if terminal.as_json:
        return terminal.document(found)
    rows = [
        (w["id"], "disabled" if w["disabled_at"] else "enabled", ", ".join(w["events"]), escaped(w["url"]))
        for w in found
    ]
    return terminal.table(("id", "state", "events", "url"), rows)


webhooks.command("list")(every)


@webhooks.callback()
def _alone(ctx: typer.Context, api: Api = "", as_json: Json = False) -> None:
    if ctx.invoked_subcommand is None:
        every(ctx, api=api, as_json=as_json)


@webhooks.command("add")
@spoken
def add(
    terminal: Terminal,
    url: Annotated[str, typer.Argument(metavar="URL", help="https://..., of a public address")],
    event: Events = None,
    label: Label = None,
    description: Annotated[str, typer.Option(help="A note of your own")] = "",
) -> None:
    """Have an address told of jobs. Prints its id, and the secret that signs, which is shown only now."""
    asked: dict[str, Any] = {"events": event, "labels": labelled(label or []), "description": description}
    show(terminal, terminal.client.add_webhook(url, **{name: value for name, value in asked.items() if value}))


@webhooks.command("show")
@spoken
def _show(terminal: Terminal, webhook: Webhook) -> None:
    """Show one, without its secret."""
    show(terminal, terminal.client.webhook(webhook))


@webhooks.command("delete")
@spoken
def delete(terminal: Terminal, webhook: Webhook) -> None:
    """Remove one with its deliveries."""
    terminal.client.delete_webhook(webhook)
    terminal.document({"id": webhook, "state": "deleted"}) if terminal.as_json else typer.echo(f"{webhook} deleted")


@webhooks.command("test")
@spoken
def test(terminal: Terminal, webhook: Webhook) -> None:
    """Send an event that says nothing; `deliveries` says what became of it."""
    show(terminal, terminal.client.test_webhook(webhook))


@webhooks.command("rotate")
@spoken
def rotate(terminal: Terminal, webhook: Webhook) -> None:
    """Have a new secret, shown only now; the one before signs beside it for a day."""
    show(terminal, terminal.client.rotate_webhook(webhook))


@webhooks.command("deliveries")
@spoken
def deliveries(terminal: Terminal, webhook: Webhook, limit: Limit = 50, everything: All = False) -> None:
    """List what one was told, newest first, and what became of it.

    With --json a line for each.
    """
    found = some(None if everything else limit, partial(terminal.client.deliveries, webhook))
    terminal.listing(("id", "state", "event", "job", "made", "attempts", "answer"), found, _delivery)


def _delivery(d: dict[str, Any]) -> tuple[Any, ...]:
    answer = escaped(d["error"] or d["status"] or "")
    return d["id"], coloured(d["state"]), d["event"], d["job"], when(d["created_at"]), d["attempts"], answer
