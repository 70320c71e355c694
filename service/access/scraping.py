"""Who may read metrics. The database is not asked, since they must tell when it is away."""

import hmac

from service.remote.credentials import is_loopback
from service.settings import Settings

REFUSED = "send the token of ROBUSTREPS_METRICS_TOKEN: Authorization: Bearer ..."


def may_scrape(settings: Settings, authorization: str) -> bool:
    """Whoever has the token; without one, whoever reaches a service that is for this machine alone."""
    if settings.metrics_token is None:
        return settings.auth == "off" or is_loopback(settings.host)
    kind, _, sent = authorization.partition(" ")
    wanted = settings.metrics_token.get_secret_value()
    return kind.lower() == "bearer" and hmac.compare_digest(sent.strip().encode(), wanted.encode())
