"""The server's secret, under which keys are hashed; and small files that only their owner can read."""

import os
import secrets
from pathlib import Path

from service.settings import Settings


def server_secret(settings: Settings) -> bytes:
    """ROBUSTREPS_SECRET_KEY, or the embedded mode's own, which is made once. Raises ValueError if there is none."""
    if settings.secret_key is not None:
        return settings.secret_key.get_secret_value().encode()
    if not settings.embedded:
        raise ValueError(
            "ROBUSTREPS_SECRET_KEY is needed where keys are asked for; make it by: openssl rand -base64 32"
        )
    return once(settings.data_dir / "secret", secrets.token_urlsafe(32)).encode()


def once(path: Path, text: str) -> str:
    """What the file has, or `text` from now on: the first who comes decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    try:
        os.link(beside, path)  # whole, and never over another
    except FileExistsError:
        pass
    finally:
        beside.unlink()
    return path.read_text()
