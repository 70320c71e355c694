"""Tenants and keys, as they are made, listed, changed and ended. Each function is one transaction's work."""

import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from service.access import tokens
from service.access.models import ApiKey, Tenant
from service.access.principal import REQUESTS, Principal, Scope
from service.db import now
from service.errors import Conflict, FieldError, InvalidInput, NotFound

SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
QUOTAS = ("queued_items", REQUESTS, "stored_bytes")
"""What a tenant may have, where it is not as the settings have it: 0 of the last two is as much as it likes."""
GRACE = 86_400.0
"""Seconds for which a key that was replaced still opens."""
MINUTE = 60.0
"""Seconds between two notes of when a key was used last."""
_live = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now()) & ApiKey.revoked_at.is_(None)
VALID = _live & Tenant.disabled_at.is_(None)


class NewKey(NamedTuple):
    """A key's row, and its text, which nobody can be told again."""

    row: ApiKey
    text: str


def create_tenant(session: Session, tenant: str, name: str = "") -> Tenant:
    """Raises InvalidInput, or Conflict if there is one."""
    if not SLUG.fullmatch(tenant):
        raise InvalidInput(FieldError("tenant", "allowed: up to 40 of a to z, 0 to 9 and -, the first of them no -"))
    if session.get(Tenant, tenant) is not None:
        raise Conflict(f"there is a tenant {tenant} already")
    row = Tenant(id=tenant, name=name or tenant, quotas={}, created_at=_now(session))
    session.add(row)
    session.flush()
    return row


def tenants(session: Session) -> Sequence[Tenant]:
    return session.scalars(select(Tenant).order_by(Tenant.id)).all()


def set_quota(session: Session, tenant: str, name: str, most: int | None) -> Tenant:
    """`most` None: as the settings have it. Raises NotFound, InvalidInput."""
    if name not in QUOTAS:
        raise InvalidInput(FieldError("quota", f"is unknown; allowed: {', '.join(QUOTAS)}"))
    if most is not None and most < 0:
        raise InvalidInput(FieldError(name, f"is {most}; allowed: 0 or more"))
    row = _tenant(session, tenant)
    kept = {key: value for key, value in row.quotas.items() if key != name}
    row.quotas = kept if most is None else kept | {name: most}
    session.flush()
    return row


def create_key(
    session: Session, tenant: str, name: str, scopes: Collection[Scope], seconds: float | None, secret: bytes,
    rotated_from: str | None = None,
) -> NewKey:  # fmt: skip
    """A key that opens for so many seconds, or until it is revoked. Raises NotFound, InvalidInput."""
    _tenant(session, tenant)
    if not scopes:
        raise InvalidInput(FieldError("scopes", f"are missing; allowed: {', '.join(Scope)}"))
    if seconds is not None and seconds <= 0:
        raise InvalidInput(FieldError("expires", "is over already; allowed: a time to come"))
    token, at = tokens.new(), _now(session)
    row = ApiKey(
        id=token.id, tenant=tenant, name=name, hash=tokens.hashed(token.text, secret), scopes=sorted(set(scopes)),
        created_at=at, expires_at=None if seconds is None else at + seconds, rotated_from=rotated_from,
    )  # fmt: skip
    session.add(row)
    session.flush()
    return NewKey(row, token.text)


def keys(session: Session, tenant: str | None = None) -> Sequence[ApiKey]:
    """The oldest first, those that open no longer too."""
    asked = select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)
    return session.scalars(asked if tenant is None else asked.where(ApiKey.tenant == tenant)).all()


def revoke(session: Session, key_id: str) -> ApiKey:
    """It opens no longer, once processes have forgotten it. Raises NotFound."""
    row = _key(session, key_id)
    row.revoked_at = row.revoked_at or _now(session)
    session.flush()
    return row


def rotate(session: Session, key_id: str, secret: bytes, grace: float = GRACE) -> NewKey:
    """A key in place of another, which still opens for so many seconds. Raises NotFound, or Conflict if it does not."""
    row, at = _key(session, key_id), _now(session)
    if row.revoked_at is not None or (row.expires_at or at + 1) <= at:
        raise Conflict(f"key {key_id} opens no longer; create another")
    lasts = None if row.expires_at is None else row.expires_at - at
    made = create_key(session, row.tenant, row.name, [Scope(s) for s in row.scopes], lasts, secret, key_id)
    row.expires_at = min(row.expires_at or at + grace, at + grace)
    session.flush()
    return made


def verify(session: Session, text: str, secret: bytes) -> Principal | None:
    """Who has this key; None for one that opens nothing."""
    if (token := tokens.parse(text)) is None:
        return None
    found = select(ApiKey.hash, ApiKey.tenant, ApiKey.scopes, Tenant.quotas).join(Tenant, Tenant.id == ApiKey.tenant)
    row = session.execute(found.where(ApiKey.id == token.id, VALID)).one_or_none()
    # As long for an id that nobody has.
    right = tokens.same(row.hash if row else "", text, secret)
    return principal(token.id, row) if row and right else None


def principal(key_id: str, row: Any) -> Principal:
    """Of a row with `tenant`, `scopes` and `quotas`."""
    return Principal(row.tenant, key_id, frozenset(map(Scope, row.scopes)), row.quotas.get(REQUESTS))


def used(session: Session, key_ids: Collection[str]) -> None:
    """Note that these keys were used, each once a minute at most."""
    old = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < now() - MINUTE)
    noted: Any = update(ApiKey).where(ApiKey.id.in_(key_ids), old).values(last_used_at=now())
    session.execute(noted, execution_options={"synchronize_session": False})


def _tenant(session: Session, tenant: str) -> Tenant:
    if (row := session.get(Tenant, tenant)) is None:
        raise NotFound(f"no tenant {tenant}")
    return row


def _key(session: Session, key_id: str) -> ApiKey:
    if (row := session.get(ApiKey, key_id, with_for_update=True)) is None:
        raise NotFound(f"no key {key_id}")
    return row


def _now(session: Session) -> float:
    return session.scalars(select(now())).one()
