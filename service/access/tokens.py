"""The text of a key: `rr_`, 12 characters that are public, `_`, 256 random bits and a checksum.

The checksum tells a key from a text that looks like one, so that scanners can look for keys, and a mistyped one is
refused without a look into the database.
"""

import base64
import hashlib
import hmac
import re
import secrets
import zlib
from typing import NamedTuple

PREFIX, ALPHABET = "rr_", "abcdefghijklmnopqrstuvwxyz0123456789"
FORM = re.compile(r"rr_([a-z0-9]{12})_([A-Za-z0-9_-]{43})([A-Za-z0-9_-]{6})")


class Token(NamedTuple):
    """A key's public part, and all of it."""

    id: str
    text: str


def new() -> Token:
    """Another one each time."""
    key_id, secret = "".join(secrets.choice(ALPHABET) for _ in range(12)), secrets.token_urlsafe(32)
    return Token(key_id, f"{PREFIX}{key_id}_{secret}{_checksum(key_id + secret)}")


def parse(text: str) -> Token | None:
    """None for what is no key."""
    found = FORM.fullmatch(text)
    return Token(found[1], text) if found and _checksum(found[1] + found[2]) == found[3] else None


def hashed(text: str, secret: bytes) -> str:
    """What is stored of a key: nobody can find keys for it without the server's secret."""
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def same(hash_: str, text: str, secret: bytes) -> bool:
    """In a time that does not tell how much of it is right."""
    return hmac.compare_digest(hash_, hashed(text, secret))


def _checksum(text: str) -> str:
    return base64.urlsafe_b64encode(zlib.crc32(text.encode()).to_bytes(4)).decode().rstrip("=")
