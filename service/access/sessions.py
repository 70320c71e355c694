"""Sessions of browsers: what a cookie holds in place of a key, or a link that makes one. One transaction each."""

import secrets
from typing import Any, NamedTuple

from sqlalchemy import CursorResult, delete, select
from sqlalchemy.orm import Session

from service.access import registry, tokens
from service.access.models import ApiKey, BrowserSession, Tenant
from service.access.principal import Principal
from service.db import now

PREFIX = "rs_"
LINK = 3600.0
"""Seconds for which a link that signs in may be used, once."""
ALIVE = BrowserSession.expires_at > now()


class Entered(NamedTuple):
    """A new session: what the cookie holds, and whose it is."""

    text: str
    principal: Principal


def begin(session: Session, key_id: str, seconds: float, secret: bytes, once: bool = False) -> str:
    """The text of a session of this key, or of a link; those that are over are forgotten."""
    at = session.scalars(select(now())).one()
    gone = delete(BrowserSession).where(BrowserSession.expires_at < at)
    session.execute(gone, execution_options={"synchronize_session": False})
    text = PREFIX + secrets.token_urlsafe(32)
    session.add(BrowserSession(hash=tokens.hashed(text, secret), key_id=key_id, once=once, expires_at=at + seconds))
    session.flush()
    return text


def enter(session: Session, text: str, seconds: float, secret: bytes) -> Entered | None:
    """A session for who has a key, or a link's text, which is used up; None for what opens nothing."""
    if text.startswith(PREFIX):
        found = find(session, text, secret, once=True)
        end(session, text, secret)
    else:
        found = registry.verify(session, text, secret)
    if found is None or found.key is None:
        return None
    return Entered(begin(session, found.key, seconds, secret), found)


def find(session: Session, text: str, secret: bytes, once: bool = False) -> Principal | None:
    """Whose session it is; None for one that is over, and once its key opens nothing."""
    of_keys = select(ApiKey.id, ApiKey.tenant, ApiKey.scopes, Tenant.quotas).join(BrowserSession).join(Tenant)
    this = (BrowserSession.hash == tokens.hashed(text, secret)) & (BrowserSession.once == once) & ALIVE
    row = session.execute(of_keys.where(this, registry.VALID)).one_or_none()
    return registry.principal(row.id, row) if row else None


def end(session: Session, text: str, secret: bytes) -> bool:
    """Whether there was such a session."""
    this = delete(BrowserSession).where(BrowserSession.hash == tokens.hashed(text, secret))
    done: CursorResult[Any] = session.execute(this, execution_options={"synchronize_session": False})  # type: ignore[assignment]
    return done.rowcount > 0
