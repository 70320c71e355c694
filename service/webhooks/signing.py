"""Secrets and signatures of the Standard Webhooks specification (symmetric, version 1)."""

import base64
import hmac
import secrets
from collections.abc import Iterable, Mapping

PREFIX = "whsec_"


def new_secret() -> str:
    """32 random bytes."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def headers(of: Iterable[str], message_id: str, timestamp: int, body: str) -> Mapping[str, str]:
    """What proves to a receiver that `body` is ours and new: a signature by each of these secrets."""
    signed = f"{message_id}.{timestamp}.{body}".encode()
    keys = [base64.b64decode(secret.removeprefix(PREFIX)) for secret in of]
    signatures = ["v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    return {
        "webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": " ".join(signatures),
    }  # fmt: skip
