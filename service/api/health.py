"""/healthz: the process is alive. /readyz: it can do its work."""

from collections.abc import Callable

import structlog
from fastapi import APIRouter, Response
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from service.api.context import Context, Ctx
from service.storage import StorageError

router = APIRouter(tags=["health"])
log = structlog.get_logger()


@router.get("/healthz", summary="Is it alive?")
def healthz() -> dict[str, str]:
    """200 as long as the process lives."""
    return {"status": "ok"}


@router.get("/readyz", summary="Can it work?", responses={503: {"model": dict[str, str], "description": "It cannot"}})
def readyz(ctx: Ctx, response: Response) -> dict[str, str]:
    """200 if the database and the storage answer. A broker that does not only delays jobs, so it is only reported."""
    checks: dict[str, Callable[[], object]] = {
        "database": lambda: _select_one(ctx),
        "storage": ctx.storage.check,
        "broker": ctx.broker.depth,
    }
    result = {name: _outcome(name, check) for name, check in checks.items()}
    if result["database"] != "ok" or result["storage"] != "ok":
        response.status_code = 503
    return result


def _select_one(ctx: Context) -> None:
    with ctx.db.reading() as session:
        session.execute(text("SELECT 1"))


def _outcome(name: str, check: Callable[[], object]) -> str:
    try:
        check()
    except (SQLAlchemyError, StorageError, BrokerError, OSError) as e:
        log.warning("not ready", part=name, reason=str(e))
        return "unreachable"
    return "ok"
