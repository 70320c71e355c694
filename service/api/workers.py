"""/v1/workers: who computes, and how much there is to do."""

from fastapi import APIRouter

from service import fleet, responses, waiting
from service.api.context import Reading

router = APIRouter(prefix="/v1", tags=["workers"])


@router.get("/workers")
def list_workers(session: Reading) -> responses.WorkerList:
    """The worker processes of the last day, those that are alive first, and what waits for them."""
    return responses.WorkerList(workers=fleet.workers(session), queue=waiting.queue(session).backlog)
