"""The key that a client sends: ROBUSTREPS_API_KEY, or the embedded service's own, from its folder on this machine."""

import ipaddress
from urllib.parse import urlsplit

KEY_FILE = "key"
"""In the embedded service's folder, readable by who runs it alone."""


def found(url: str) -> str | None:
    """None where there is none: the service may ask for no keys."""
    from service.settings import get_settings  # here: who has a key at hand needs none of it

    settings = get_settings()
    if settings.api_key is not None:
        return settings.api_key.get_secret_value()
    file = settings.data_dir / KEY_FILE
    return file.read_text().strip() if is_loopback(urlsplit(url).hostname or "") and file.is_file() else None


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
