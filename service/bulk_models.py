"""The tables beside those of jobs: planning of large ones, labels, result shards, uploads, webhooks, workers."""

from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from service.models import Base, Owned, Posted

UNDELIVERED = text("delivered_at IS NULL AND failed_at IS NULL")


class Label(Base):
    """A job's label."""

    __tablename__ = "labels"
    __table_args__ = (Index(None, "key", "value", "job_id"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(63), primary_key=True)
    value: Mapped[str] = mapped_column(String(200))


class Planning(Base):
    """How far a job that is planned in chunks has come; kept when it is planned."""

    __tablename__ = "plannings"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    entries: Mapped[int] = mapped_column(default=0)  # of its source that have been looked at
    items: Mapped[int] = mapped_column(default=0)  # planned
    shards: Mapped[int] = mapped_column(default=0)
    reused: Mapped[int] = mapped_column(default=0)  # items that an earlier job had finished
    invalid: Mapped[int] = mapped_column(default=0)  # entries that were refused
    total: Mapped[int | None]  # entries of the source, once known
    owner: Mapped[str | None] = mapped_column(String(40))  # who is planning it
    lease_expires_at: Mapped[float | None]  # from when on another may begin anew
    finished_at: Mapped[float | None]


class PlanError(Base):
    """What is wrong with an entry of a job's source: a line of a manifest, an object, an index."""

    __tablename__ = "plan_errors"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    entry: Mapped[int] = mapped_column(primary_key=True)  # counted from 1; of a manifest, its line
    field: Mapped[str] = mapped_column(Text, primary_key=True)
    message: Mapped[str] = mapped_column(Text)


class Reuse(Base):
    """A job that points to objects of another, which are kept as long as it is."""

    __tablename__ = "reuses"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    source_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True, index=True)


class ResultShard(Base):
    """A tar of items' files in the layout of WebDataset, to which their artifacts point."""

    __tablename__ = "result_shards"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    first_item: Mapped[int]
    items: Mapped[int]
    size: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))


class LogLine(Base):
    """Something that happened to a job, and to which shard of it, if to one."""

    __tablename__ = "log_lines"
    __table_args__ = (Index(None, "job_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    at: Mapped[float]
    level: Mapped[str] = mapped_column(String(10))
    event: Mapped[str] = mapped_column(String(40))
    shard: Mapped[int | None]
    epoch: Mapped[int | None]
    worker: Mapped[str | None] = mapped_column(Text)
    detail: Mapped[dict[str, Any]]


class Manifest(Posted, Base):
    """A list of inputs that a client uploaded; its id is the digest of its bytes."""

    __tablename__ = "manifests"

    key: Mapped[str] = mapped_column(Text)
    size: Mapped[int]
    created_at: Mapped[float]


class PendingUpload(Owned, Base):
    """An object that a client may put by a presigned URL, and what it says of it; checked when it says it is there."""

    __tablename__ = "pending_uploads"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    key: Mapped[str] = mapped_column(Text)
    size: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float]
    expires_at: Mapped[float] = mapped_column(index=True)
    result: Mapped[str | None] = mapped_column(String(71))  # the id that jobs name, once it was checked


class Webhook(Owned, Base):
    """An address that is told of events."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    secrets: Mapped[list[Any]]  # `secret` and `expires_at`, the newest first; an older one signs until it expires
    events: Mapped[list[Any]]
    labels: Mapped[dict[str, Any]]  # only jobs that have all of these
    description: Mapped[str | None] = mapped_column(Text)
    client: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[float]
    disabled_at: Mapped[float | None]
    disabled_reason: Mapped[str | None] = mapped_column(Text)


class Delivery(Base):
    """An event on its way to a webhook: the outbox, written in the transaction of the event."""

    __tablename__ = "deliveries"
    __table_args__ = (
        Index("ix_deliveries_due", "webhook_id", "next_at", postgresql_where=UNDELIVERED, sqlite_where=UNDELIVERED),
        Index(None, "webhook_id", "created_at"),
        Index(None, "created_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    event: Mapped[str] = mapped_column(String(40))
    job_id: Mapped[str | None] = mapped_column(String(40), index=True)
    body: Mapped[str] = mapped_column(Text)  # to the byte what is signed
    created_at: Mapped[float]
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_at: Mapped[float]
    status: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[str | None] = mapped_column(Text)
    delivered_at: Mapped[float | None]
    failed_at: Mapped[float | None]


class WorkerProcess(Base):
    """A worker that says it is alive, and what it is doing."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    started_at: Mapped[float]
    seen_at: Mapped[float] = mapped_column(index=True)
    ended_at: Mapped[float | None]
    info: Mapped[dict[str, Any]]  # host, device, versions, threads, occupancy, image-steps a second
