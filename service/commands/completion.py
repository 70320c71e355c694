"""Names for the shell to complete, where the API answers fast: any failure completes nothing."""

from collections.abc import Callable, Iterable
from contextlib import suppress

import typer

SECONDS = 1.0
"""How long a shell waits for names at most."""


def _names(ctx: typer.Context, incomplete: str, listed: Callable[..., Iterable[str]]) -> list[str]:
    with suppress(Exception):  # a shell has nowhere to show an error
        from service.client import Client
        from service.commands.terminal import address

        with Client(address(ctx), SECONDS) as client:
            client.pauses = ()
            return [name for name in listed(client) if name.startswith(incomplete)]
    return []


def jobs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of the newest jobs."""
    return _names(ctx, incomplete, lambda client: [j["id"] for j in client.json("GET", "/v1/jobs?limit=50")["jobs"]])


def models(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of networks."""
    return _names(ctx, incomplete, lambda client: [card["name"] for card in client.models()])


def webhooks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of webhooks."""
    return _names(ctx, incomplete, lambda client: [webhook["id"] for webhook in client.webhooks()])


def datasets(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of data sets."""
    return _names(ctx, incomplete, lambda client: [card["name"] for card in client.datasets()])
