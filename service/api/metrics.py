"""/metrics: what Prometheus reads."""

from typing import Annotated

from fastapi import APIRouter, Header, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from service import counting, errors
from service.access.scraping import REFUSED, may_scrape
from service.api.context import Whole

router = APIRouter()


@router.get("/metrics", include_in_schema=False)
def metrics(ctx: Whole, authorization: Annotated[str, Header()] = "") -> Response:
    """Of the processes that share this port, and of the queue, in Prometheus' text format."""
    if not may_scrape(ctx.settings, authorization):
        raise errors.Unauthorized(REFUSED)
    text = counting.exposition(counting.QueueCollector(ctx.db))
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)
