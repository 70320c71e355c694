"""/metrics: what Prometheus reads."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from service import counting
from service.api.context import Whole

router = APIRouter()


@router.get("/metrics", include_in_schema=False)
def metrics(ctx: Whole) -> Response:
    """Of the processes that share this port, and of the queue, in Prometheus' text format."""
    text = counting.exposition(counting.QueueCollector(ctx.db))
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)
