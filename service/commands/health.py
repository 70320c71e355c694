"""`robustreps health`: for a container's health check, whether the API or the worker in it does its work."""

import socket
import sys
from contextlib import closing
from typing import Annotated

import httpx2
import typer

from service.settings import Settings, get_settings

SECONDS = 10.0


def health(
    worker: Annotated[bool, typer.Option("--worker", help="The worker on this host, in place of the API")] = False,
) -> None:
    """Say whether the API, or a worker, of this host does its work; the status is 1 if it cannot."""
    settings = get_settings()
    if not worker:
        works, found = _asked(settings, "api", settings.port)
    elif settings.metrics_port:
        works, found = _asked(settings, "worker", settings.metrics_port)
    else:
        works, found = _announced(settings)
    typer.echo("\n".join(f"{part}: {state}" for part, state in found.items()))
    sys.exit(0 if works else 1)


def _asked(settings: Settings, whom: str, port: int) -> tuple[bool, dict[str, str]]:
    """What /readyz says."""
    try:
        answer = httpx2.get(f"http://{settings.host}:{port}/readyz", timeout=SECONDS, trust_env=False)
        return answer.status_code == 200, dict(answer.json())
    except (httpx2.HTTPError, ValueError) as e:
        return False, {whom: f"no answer: {e}"}


def _announced(settings: Settings) -> tuple[bool, dict[str, str]]:
    """Whether a worker of this host says that it lives, and can be told of work."""
    from kombu.exceptions import OperationalError  # here: who asks the API needs none of these
    from sqlalchemy.exc import SQLAlchemyError

    from service import fleet
    from service.broker import Broker, celery_app
    from service.db import Database

    found = {"database": "ok", "worker": "ok", "broker": "ok"}
    try:
        with closing(Database(settings.database)) as database, database.reading() as session:
            if not fleet.lives_on(session, socket.gethostname()):
                found["worker"] = "silent"
    except SQLAlchemyError:
        found |= {"database": "unreachable", "worker": "unknown"}
    try:
        with closing(Broker(celery_app(settings))) as broker:
            broker.depth()
    except OperationalError:
        found["broker"] = "unreachable"
    return set(found.values()) == {"ok"}, found
