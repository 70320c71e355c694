"""`robustreps admin keys` and `tenants`. They speak to the database itself, so that there can be a first key."""

import json
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated, Any

import typer
from sqlalchemy.orm import Session

from service.access import registry
from service.access.models import ApiKey, Tenant
from service.access.principal import DEFAULT, Scope
from service.access.secret import server_secret
from service.db import Database, iso
from service.errors import Problem
from service.settings import get_settings

keys, tenants = typer.Typer(no_args_is_help=True), typer.Typer(no_args_is_help=True)
AGE = re.compile(r"([1-9][0-9]{0,5})([smhdw])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
Json = Annotated[bool, typer.Option("--json", help="Print JSON")]
Ago = Annotated[
    str, typer.Option("--expires", metavar="90d", help="For how long it opens: a number and s, m, h, d or w")
]


def add_to(admin: typer.Typer) -> None:
    admin.add_typer(keys, name="keys", help="Create, list, rotate and revoke keys")
    admin.add_typer(tenants, name="tenants", help="Create and list tenants, and set their quotas")


def span(text: str) -> float | None:
    """Seconds; None for nothing, which is for ever. Raises typer.BadParameter."""
    if not text:
        return None
    if (found := AGE.fullmatch(text)) is None:
        raise typer.BadParameter(f"{text} is no span of time; allowed: a number and s, m, h, d or w, such as 90d")
    return int(found[1]) * SECONDS[found[2]]


@contextmanager
def _session() -> Iterator[Session]:
    """One transaction; what is refused ends the command with a line."""
    with closing(Database(get_settings().database)) as db:
        try:
            with db.transaction() as session:
                yield session
        except Problem as e:
            typer.echo(e.detail, err=True)
            raise typer.Exit(2) from e


@keys.command("create")
def create(
    tenant: Annotated[str, typer.Option(help="Whose it is")] = DEFAULT,
    scopes: Annotated[str, typer.Option(help="What it is for: read, write, admin")] = "read,write",
    name: Annotated[str, typer.Option(help="A name to know it by")] = "",
    expires: Ago = "",
    as_json: Json = False,
) -> None:
    """Make a key; it is shown only now."""
    asked, wrong = [each.strip() for each in scopes.split(",")], sorted(set(scopes.split(",")) - set(Scope))
    if wrong:
        raise typer.BadParameter(f"scopes: {', '.join(wrong)} is unknown; allowed: {', '.join(Scope)}")
    secret = server_secret(get_settings())
    with _session() as session:
        made = registry.create_key(session, tenant, name, [Scope(each) for each in asked], span(expires), secret)
    _shown(made, as_json)


@keys.command("rotate")
def rotate(
    key: Annotated[str, typer.Argument(help="Its public part, as `list` shows it")],
    grace: Annotated[str, typer.Option(metavar="1d", help="For how long the old one still opens")] = "1d",
    as_json: Json = False,
) -> None:
    """Make a key in the place of another, which still opens for a while; it is shown only now."""
    secret, lasts = server_secret(get_settings()), span(grace)
    with _session() as session:
        made = registry.rotate(session, key, secret, lasts or 0)
    _shown(made, as_json)


@keys.command("revoke")
def revoke(key: Annotated[str, typer.Argument(help="Its public part, as `list` shows it")]) -> None:
    """Have a key open nothing from now on; processes that know it already take up to 5 seconds."""
    with _session() as session:
        registry.revoke(session, key)
    typer.echo(f"key {key} is revoked")


@keys.command("list")
def list_keys(tenant: Annotated[str, typer.Option(help="Only of this one")] = "", as_json: Json = False) -> None:
    """List keys, without what is secret of them."""
    with _session() as session:
        rows = [_key(row) for row in registry.keys(session, tenant or None)]
    _listed(rows, as_json)


@tenants.command("create")
def create_tenant(
    tenant: Annotated[str, typer.Argument(help="a to z, 0 to 9 and -")],
    name: Annotated[str, typer.Option(help="For people")] = "",
) -> None:
    """Make a tenant, which sees nothing of others."""
    with _session() as session:
        registry.create_tenant(session, tenant, name)
    typer.echo(f"tenant {tenant} is there")


@tenants.command("list")
def list_tenants(as_json: Json = False) -> None:
    """List tenants and their quotas."""
    with _session() as session:
        rows = [_tenant(row) for row in registry.tenants(session)]
    _listed(rows, as_json)


@tenants.command("quota")
def quota(
    tenant: str,
    name: Annotated[str, typer.Argument(help=", ".join(registry.QUOTAS))],
    most: Annotated[int | None, typer.Argument(help="Left out: as the settings have it")] = None,
) -> None:
    """Set how much a tenant may have at once."""
    with _session() as session:
        row = registry.set_quota(session, tenant, name, most)
    typer.echo(f"tenant {tenant}: {json.dumps(row.quotas)}")


def _shown(made: registry.NewKey, as_json: bool) -> None:
    """The key alone on the standard output, so that a script can take it."""
    if as_json:
        return typer.echo(json.dumps(_key(made.row) | {"key": made.text}))
    typer.echo(f"key {made.row.id} of tenant {made.row.tenant}, shown only now:", err=True)
    return typer.echo(made.text)


def _key(row: ApiKey) -> dict[str, Any]:
    times = ("created_at", "expires_at", "last_used_at", "revoked_at")
    named = {name: getattr(row, name) for name in ("id", "tenant", "name", "scopes", "rotated_from")}
    return named | {name: iso(getattr(row, name)) for name in times}


def _tenant(row: Tenant) -> dict[str, Any]:
    times = {"created_at": iso(row.created_at), "disabled_at": iso(row.disabled_at)}
    return {"id": row.id, "name": row.name, "quotas": row.quotas} | times


def _listed(rows: list[dict[str, Any]], as_json: bool) -> None:
    """A line each, with what there is of it."""
    for row in rows:
        told = ((name, ",".join(v) if isinstance(v, list) else v) for name, v in row.items() if name != "id" and v)
        line = "  ".join(f"{name}={value}" for name, value in told)
        typer.echo(json.dumps(row) if as_json else f"{row['id']}  {line}")
