"""Tenants, their keys, and what is theirs of what several may have posted."""

from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from service.models import Base


class Tenant(Base):
    """Who sees nothing of others, and is counted by itself. `quotas` has what is not as the settings have it."""

    __tablename__ = "tenants"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    quotas: Mapped[dict[str, Any]]
    created_at: Mapped[float]
    disabled_at: Mapped[float | None]


class ApiKey(Base):
    """A key of a tenant, of which only a keyed hash is stored; `id` is its public part."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    hash: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[Any]]
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    last_used_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
    rotated_from: Mapped[str | None] = mapped_column(String(12))


class BrowserSession(Base):
    """What a browser holds in place of a key: a random text, of which the hash is stored. It ends with its key.

    One that is `once` only makes a session, and is gone then: it stands in a link.
    """

    __tablename__ = "browser_sessions"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"), index=True)
    once: Mapped[bool]
    expires_at: Mapped[float] = mapped_column(index=True)
