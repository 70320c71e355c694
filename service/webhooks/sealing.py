"""Secrets of webhooks as they are stored: sealed, so that who has only the database can sign nothing.

The key is the server's secret (ROBUSTREPS_SECRET_KEY). Where there is none, since no keys are asked for, and in rows of
the version before, a secret is stored as it is; rotating it seals the new one.
"""

import base64
import hmac
from functools import cache

from cryptography.fernet import Fernet, InvalidToken

from service.access.secret import server_secret
from service.settings import Settings

SEALED = "sealed:"


@cache
def _box(secret: bytes) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hmac.digest(secret, b"secrets of webhooks", "sha256")))


def seal(text: str, settings: Settings) -> str:
    """As it is stored."""
    if settings.secret_key is None and not settings.embedded:
        return text
    return SEALED + _box(server_secret(settings)).encrypt(text.encode()).decode()


def unsealed(stored: str, settings: Settings) -> str | None:
    """None for what was sealed under another secret of the server's."""
    if not stored.startswith(SEALED):
        return stored
    try:
        return _box(server_secret(settings)).decrypt(stored.removeprefix(SEALED)).decode()
    except (InvalidToken, ValueError):  # ValueError: the server has none any more
        return None
