"""/v1/workers: who computes."""

from fastapi import APIRouter

from service import fleet, responses
from service.api.context import Reading

router = APIRouter(prefix="/v1", tags=["workers"])


@router.get("/workers")
def list_workers(session: Reading) -> responses.WorkerList:
    """The worker processes of the last day, those that are alive first."""
    return fleet.workers(session)
