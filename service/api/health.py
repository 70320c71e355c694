"""/healthz: the process is alive. /readyz: it can do its work."""

from typing import Any

from fastapi import APIRouter, Response

from service import readiness
from service.api.context import Whole

router = APIRouter(tags=["health"])
CANNOT: dict[int | str, dict[str, Any]] = {503: {"model": dict[str, str], "description": "It cannot"}}


@router.get("/healthz", summary="Is it alive?")
def healthz() -> dict[str, str]:
    """200 as long as the process lives."""
    return {"status": "ok"}


@router.get("/readyz", summary="Can it work?", responses=CANNOT)
def readyz(ctx: Whole, response: Response) -> dict[str, str]:
    """200 if the database, with the schema of this version, and the storage answer.

    A broker that does not only delays jobs, so it is only reported.
    """
    found = readiness.of_servers(ctx.db, ctx.storage, ctx.broker)
    if not readiness.ready(found, but={"broker"}):
        response.status_code = 503
    return found
