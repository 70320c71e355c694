"""The tables. Times are seconds since the epoch on the database's clock, so that a lease is one sum in any dialect."""

import secrets
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service.access.principal import DEFAULT
from service.states import ItemState, JobState, ShardState

FAILED = text(f"state = '{ItemState.FAILED}'")
DELETED = text("deleted_at IS NOT NULL")
KEPT_FOR = text("retention_seconds IS NOT NULL AND deleted_at IS NULL")
KNOWN = text("digest IS NOT NULL")


def _stamp() -> int:
    return secrets.randbits(62)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON, float: Double, int: BigInteger}  # noqa: RUF012


class Owned:
    """What is a tenant's. Sessions of one see no other's rows (`service.db`)."""

    tenant: Mapped[str] = mapped_column(String(40), default=DEFAULT, server_default=DEFAULT)


class Posted:
    """What lies under the digest of its bytes, and is of all who posted them: see `Holding`."""

    id: Mapped[str] = mapped_column(String(71), primary_key=True)


def one_of(column: str, states: type[StrEnum]) -> CheckConstraint:
    """The database refuses a state that the enum does not have."""
    return CheckConstraint(f"{column} IN ({', '.join(repr(s.value) for s in states)})", name=column)


class Job(Owned, Base):
    """What a client asked for. `parameters` are resolved: nothing in them is left to a default.

    A recipe's studies are jobs whose `parent_id` is the recipe's job, each a `part` of it.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        one_of("state", JobState), Index(None, "state"), Index(None, "created_at", "id"),
        Index(None, "kind", "created_at"), Index(None, "tenant", "created_at", "id"),
        Index("ix_jobs_deleted", "deleted_at", postgresql_where=DELETED, sqlite_where=DELETED),
        Index("ix_jobs_retention", "finished_at", postgresql_where=KEPT_FOR, sqlite_where=KEPT_FOR),
    )  # fmt: skip

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    state: Mapped[str] = mapped_column(String(20))
    parameters: Mapped[dict[str, Any]]
    warnings: Mapped[list[Any]]
    error: Mapped[dict[str, Any] | None]
    items: Mapped[int]
    created_at: Mapped[float]
    finished_at: Mapped[float | None]
    idempotency_key: Mapped[str | None] = mapped_column(String(255), unique=True)
    request_digest: Mapped[str] = mapped_column(String(64))
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    part: Mapped[str | None] = mapped_column(String(100))
    deadline: Mapped[float | None]
    client: Mapped[str | None] = mapped_column(String(64))  # whose queued items count together
    priority: Mapped[int] = mapped_column(default=1, server_default="1")  # 0 low, 1 normal, 2 high
    description: Mapped[str | None] = mapped_column(Text)
    meta: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSON(none_as_null=True))
    request: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), deferred=True)  # as it was sent
    text: Mapped[str | None] = mapped_column(Text, deferred=True)  # lower case: what a search by text looks at
    retention_seconds: Mapped[float | None]
    deleted_at: Mapped[float | None]  # gone for clients; its objects and rows go later
    purged_at: Mapped[float | None]  # when they went; this row is left for a day, to know late writers by
    cloned_from: Mapped[str | None] = mapped_column(String(40))
    counts: Mapped[dict[str, Any] | None]  # of its items by state, once it is over
    summary: Mapped[dict[str, Any] | None]  # what lists show of the parameters, which may be long
    trace: Mapped[str | None] = mapped_column(String(60))  # of the request that made it: traceparent
    stamp: Mapped[int] = mapped_column(default=0, server_default="0", onupdate=_stamp)  # another one after each change


class Transition(Base):
    """When a job entered a state."""

    __tablename__ = "transitions"
    __table_args__ = (Index(None, "job_id"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    state: Mapped[str] = mapped_column(String(20))
    at: Mapped[float]


class Shard(Base):
    """A run of a job's items: the unit of dispatch and lease. `epoch` counts claims and fences every write.

    `attempts` and `crashes` count since it last got on: those that ended in an error, and those whose worker fell
    silent. `last` ones wait for the rest of their job, and are done again when some of that is.
    """

    __tablename__ = "shards"
    __table_args__ = (one_of("state", ShardState), Index(None, "state", "sent_at"), Index(None, "job_id"))

    id: Mapped[str] = mapped_column(String(48), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    state: Mapped[str] = mapped_column(String(20), default=ShardState.QUEUED)
    epoch: Mapped[int] = mapped_column(default=0)
    first_item: Mapped[int]
    item_count: Mapped[int]
    worker: Mapped[str | None] = mapped_column(Text)
    lease_expires_at: Mapped[float | None]
    heartbeat_at: Mapped[float | None]
    sent_at: Mapped[float | None]
    attempts: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    not_before: Mapped[float | None]  # no claim sooner: the pause after a failed attempt
    checkpoint: Mapped[dict[str, Any] | None]  # where a later claim goes on: `key`, `sha256`, `size`
    last: Mapped[bool] = mapped_column(default=False, server_default=false())


class Item(Base):
    """One optimisation: the unit of state, failure and result."""

    __tablename__ = "items"
    __table_args__ = (
        one_of("state", ItemState),
        Index(None, "job_id", "state", "index"),
        Index(None, "shard_id"),
        Index("ix_items_failed", "finished_at", "job_id", "index", postgresql_where=FAILED, sqlite_where=FAILED),
        Index("ix_items_digest", "digest", postgresql_where=KNOWN, sqlite_where=KNOWN),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    shard_id: Mapped[str] = mapped_column(ForeignKey("shards.id", ondelete="CASCADE"))
    state: Mapped[str] = mapped_column(String(20), default=ItemState.QUEUED)
    target: Mapped[dict[str, Any]]
    start: Mapped[dict[str, Any]]
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    metrics: Mapped[dict[str, Any] | None]
    provenance: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    epoch: Mapped[int | None]  # of the claim that ended it
    checkpoint: Mapped[dict[str, Any] | None]  # where a later claim goes on: `key`, `sha256`, `size`, `step`
    finished_at: Mapped[float | None]
    digest: Mapped[str | None] = mapped_column(String(32))  # of all that its result depends on


class Artifact(Base):
    """A file of an item's result: a stored object, or `size` bytes of one from `offset` on.

    The row is committed after the upload.
    """

    __tablename__ = "artifacts"
    __table_args__ = (
        ForeignKeyConstraint(["job_id", "item_index"], ["items.job_id", "items.index"], ondelete="CASCADE"),
    )

    job_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    item_index: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    key: Mapped[str] = mapped_column(Text)
    media_type: Mapped[str] = mapped_column(String(100))
    size: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    offset: Mapped[int | None]


class Image(Posted, Base):
    """An image that a client posted; its id is the digest of its bytes."""

    __tablename__ = "images"

    key: Mapped[str] = mapped_column(Text)
    media_type: Mapped[str] = mapped_column(String(100))
    width: Mapped[int]
    height: Mapped[int]
    size: Mapped[int]
    created_at: Mapped[float]


class Holding(Base):
    """That a tenant posted something itself; `kind` is the table that has it."""

    __tablename__ = "holdings"
    __table_args__ = (Index("ix_holdings_kind_id", "kind", "id"),)

    tenant: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    id: Mapped[str] = mapped_column(String(71), primary_key=True)


class Upload(Posted, Base):
    """A checkpoint that a client uploaded; its id is the digest of its bytes."""

    __tablename__ = "uploads"

    key: Mapped[str] = mapped_column(Text)
    size: Mapped[int]
    created_at: Mapped[float]


class RegisteredModel(Owned, Base):
    """A network that jobs can name, beside the shipped ones. `key` holds its weights as safetensors."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), index=True)
    key: Mapped[str] = mapped_column(Text)
    card: Mapped[dict[str, Any]]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"))
    created_at: Mapped[float]


class RegisteredDataset(Owned, Base):
    """A data set that jobs can name, beside the shipped ones. `location` says where its index and its images lie."""

    __tablename__ = "datasets"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    location: Mapped[dict[str, Any]]
    card: Mapped[dict[str, Any]]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"))
    created_at: Mapped[float]


class Epoch(Base):
    """What a training job measured after an epoch, counted from 1."""

    __tablename__ = "epochs"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    metrics: Mapped[dict[str, Any]]
    at: Mapped[float]


class Evaluation(Base):
    """What an evaluation job, or the end of a training job, found of a network; shipped networks have them too."""

    __tablename__ = "evaluations"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    model: Mapped[str] = mapped_column(String(100))
    model_digest: Mapped[str] = mapped_column(String(64), index=True)
    dataset: Mapped[str] = mapped_column(String(100))
    summary: Mapped[dict[str, Any]]
    at: Mapped[float]
