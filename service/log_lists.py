"""A job's log as clients read it."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import queries
from service.bulk_models import LogLine
from service.cursors import at, page
from service.joblog import Event, Level


class LogEntry(BaseModel):
    """Something that happened to a job."""

    at: datetime
    level: Level = Field(description="warning: the service goes on by itself; error: something is lost")
    event: str = Field(description=f"One of {', '.join(Event)}; there may be more")
    shard: int | None = Field(description="Its number; null for what concerns the whole job")
    epoch: int | None = Field(description="Of the claim on the shard")
    worker: str | None
    detail: dict[str, Any]


class Log(BaseModel):
    logs: list[LogEntry]
    next_cursor: str | None


def find(session: Session, job_id: str, shard: int | None, level: Level | None, limit: int, cursor: str | None) -> Log:
    """Newest first; only of this shard and level, if they are given. Raises NotFound, or InvalidInput for a cursor."""
    queries.require(session, job_id)
    query = select(LogLine).where(LogLine.job_id == job_id)
    if shard is not None:
        query = query.where(LogLine.shard == shard)
    if level is not None:
        query = query.where(LogLine.level == level)
    rows, following = page(session, query, limit, cursor, LogLine.id, newest=True)
    return Log(logs=[_entry(row) for row in rows], next_cursor=following)


def _entry(row: LogLine) -> LogEntry:
    return LogEntry(
        at=at(row.at), level=Level(row.level), event=row.event, shard=row.shard, epoch=row.epoch, worker=row.worker,
        detail=row.detail,
    )  # fmt: skip
