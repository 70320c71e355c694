"""Who asks: a tenant, by which key, and what that may do."""

from enum import StrEnum
from typing import NamedTuple


class Scope(StrEnum):
    """What a key is for. Each stands for itself: `admin` alone reads nothing."""

    READ = "read"
    """Look at everything of the tenant."""
    WRITE = "write"
    """Submit, change, upload, delete."""
    ADMIN = "admin"
    """Keys of the tenant."""


DEFAULT = "default"
"""The tenant of all there was before there were tenants, and of everybody while nobody is asked for a key."""
SAFE = {"GET", "HEAD", "OPTIONS"}


REQUESTS = "requests_a_minute"


class Principal(NamedTuple):
    """`key` is the public part of the key; None where none was asked for. `requests` are the tenant's own quota."""

    tenant: str
    key: str | None
    scopes: frozenset[Scope]
    requests: int | None = None


EVERYBODY = Principal(DEFAULT, None, frozenset(Scope))


def needed(method: str) -> Scope:
    """The scope that a request of this method takes."""
    return Scope.READ if method in SAFE else Scope.WRITE
