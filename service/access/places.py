"""Where in the service's own bucket a tenant may have it read: what was put there by other means than the API."""

from service.access.principal import DEFAULT

IMPORTS = "imports/"
OTHERS = "imports/tenants/"


def place(tenant: str | None) -> str:
    """What keys that a tenant names begin with; the default one's folder is all that is no other's."""
    return IMPORTS if tenant in (None, DEFAULT) else f"{OTHERS}{tenant}/"


def is_readable(tenant: str | None, key: str) -> bool:
    return key.startswith(place(tenant)) and (tenant != DEFAULT or not key.startswith(OTHERS))


def refusal(tenant: str | None) -> str:
    """What is said of another key."""
    return f"is outside what may be read; allowed: keys that begin with {place(tenant)}"
