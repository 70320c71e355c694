"""What clients receive."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field


class Transition(BaseModel):
    state: str
    at: datetime


class ItemCounts(BaseModel):
    total: int
    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


class ProgressSummary(BaseModel):
    """Image-steps done and to do, at most."""

    steps_done: int
    steps_total: int
    fraction: float
    curve_of: str = Field(description="relative_distance or activation")
    rate: float | None = Field(description="Image-steps a second")
    eta_seconds: float | None


class Progress(ProgressSummary):
    """The same with the curve: [step, median of `curve_of`] of what runs now."""

    curve: list[tuple[float, float]]


class Planning(BaseModel):
    """How far a job that is planned in chunks has come, in entries of its source."""

    entries: int = Field(description="Looked at so far")
    total: int | None = Field(description="How many there are, once that is known")
    items: int
    reused: int = Field(description="Items that an earlier job had finished")
    invalid: int = Field(description="Entries that were refused, as GET /v1/jobs/{id}/errors lists them")


Reason = Literal["planning", "paused", "backing_off", "parts", "no_worker", "queue"]


class Waiting(BaseModel):
    """Why a job makes no progress now, and for how long."""

    reason: Reason
    detail: str
    ahead: int | None = Field(description="Shards of other jobs that are begun before its first")
    starts_in_seconds: float | None = Field(description="By what workers last reported of their speed; null: unknown")


class Estimate(BaseModel):
    """What a job is expected to take; null where nothing like it was measured yet."""

    seconds: float | None = Field(description="From its first step to its end, with the workers there are")
    device_seconds: float | None = Field(description="The same with one worker")
    basis: str


class Preview(BaseModel):
    """What a request would become: a dry run's answer."""

    kind: str
    parameters: dict[str, Any]
    parts: dict[str, dict[str, Any]] = Field({}, description="The parameters of each job of a recipe")
    items: int | None = Field(description="null: only reading the source tells")
    shards: int | None
    image_steps: int | None = Field(description="At most")
    warnings: list[str]
    estimate: Estimate
    waiting: Waiting | None = Field(description="Where it would stand in the queue now; null: it would begin at once")


class JobLinks(BaseModel):
    self: str
    items: str
    artifacts: str
    events: str
    errors: str
    failures: str
    shards: str
    logs: str
    archive: str
    result_shards: str
    table: str
    cancel: str
    pause: str
    resume: str
    retry: str
    clone: str
    request: str


class JobSummary(BaseModel):
    """A job as lists have it."""

    id: str
    kind: str
    title: str | None = Field(description="What a recipe draws, or a registration registers")
    state: str
    priority: Literal["low", "normal", "high"]
    description: str | None
    labels: dict[str, str]
    metadata: dict[str, Any]
    model: str | None = Field(description="The network that it computes with, or is to make")
    networks: list[str] = Field(description="All of them, for a recipe")
    dataset: str | None
    parent: str | None = Field(description="The recipe job that this one is a part of")
    parts: dict[str, str] = Field(description="A recipe's jobs by label; empty for any other kind")
    cloned_from: str | None
    warnings: list[str]
    created_at: datetime
    finished_at: datetime | None
    deadline: datetime | None
    retention_seconds: float | None
    expires_at: datetime | None = Field(description="When it is deleted with all its results")
    items: ItemCounts
    progress: ProgressSummary
    planning: Planning | None = Field(description="null for a job that was planned at once")
    waiting: Waiting | None = Field(description="null for a job that is being computed, or is over")
    heartbeat_at: datetime | None = Field(None, description="Last sign of life of a worker that holds some of it")
    error: dict[str, Any] | None
    links: JobLinks


class Job(JobSummary):
    parameters: dict[str, Any]
    transitions: list[Transition]
    progress: Progress


class SentRequest(BaseModel):
    """What a job was asked for by, to be posted again."""

    address: str = Field(description="Where it is posted: /v1/jobs, or that of a recipe or a registry")
    body: dict[str, Any] = Field(description="As it was sent, with labels and the like as they are now; no deadline")
    differs_from: dict[str, Any] = Field(
        description="For each field that is not as usual, what its preset has, or else its default"
    )


class JobList(BaseModel):
    jobs: list[JobSummary]
    next_cursor: str | None


class Worker(BaseModel):
    """A worker process. It says that it is alive every 10 seconds; the numbers are of then."""

    id: str
    state: Literal["alive", "silent", "ended"]
    host: str
    device: str
    version: str
    threads: int = Field(description="Shards that it can hold at once")
    shards: list[str] = Field(description="Those that it holds: the id of the job, a point, a number")
    image_steps_per_second: float
    busy: float = Field(description="The share of the time in which its device searched")
    batch_rows: int = Field(description="Searches in its batches")
    batch_limit: int | None = Field(None, description="Searches that those batches take; null: an older worker")
    started_at: datetime
    seen_at: datetime
    ended_at: datetime | None


class Backlog(BaseModel):
    """What waits for a worker, of all jobs."""

    shards: int
    image_steps: int = Field(description="At most")


class WorkerList(BaseModel):
    workers: list[Worker]
    queue: Backlog


class Download(BaseModel):
    """A GET that whoever has it may send."""

    url: str
    headers: dict[str, str] = Field(description="What has to be sent with it")
    expires_at: datetime | None


class Artifact(BaseModel):
    name: str
    media_type: str
    size: int = Field(description="Bytes")
    sha256: str
    url: str
    download: Download | None = Field(None, description="Only if asked for by `presign`")


class JobArtifact(Artifact):
    item: int


class ArtifactList(BaseModel):
    artifacts: list[JobArtifact]
    next_cursor: str | None


class ItemCheckpoint(BaseModel):
    step: int
    size: int = Field(description="Bytes")
    sha256: str
    url: str


class ItemPreview(BaseModel):
    """How an item that is being computed looks by now, or where its job is paused, how it looked last."""

    step: int
    value: float | None = Field(description="What the job's `curve_of` is at this step, of this item alone")
    at: datetime
    url: str = Field(description="A PNG, of at most 256 pixels a side; 404 once this is over")


class Item(BaseModel):
    index: int
    state: str
    target: dict[str, Any]
    start: dict[str, Any]
    settings: dict[str, Any] = Field(description="What this item has in place of the job's parameters")
    metrics: dict[str, Any] | None
    provenance: dict[str, Any] | None
    error: dict[str, Any] | None
    epoch: int | None = Field(description="Which claim of its shard ended it")
    checkpoint: ItemCheckpoint | None = Field(description="Where a later claim goes on with it")
    preview: ItemPreview | None = Field(description="null where it is neither being computed nor paused, or not shown")
    finished_at: datetime | None
    artifacts: list[Artifact]


class ItemList(BaseModel):
    items: list[Item]
    next_cursor: str | None
    total: int | None = Field(description="How many there are on all pages, if that was asked for by `counted`")


class Epoch(BaseModel):
    """What a training job measured after an epoch; accuracies are of validation images, where there are any."""

    epoch: int
    metrics: dict[str, Any]
    at: datetime


class EpochList(BaseModel):
    epochs: list[Epoch]


class ModelEvaluation(BaseModel):
    """What an evaluation found of a network; by class it stands in the job's summary.json."""

    job: str
    dataset: str
    summary: dict[str, Any]
    at: datetime


class EvaluationList(BaseModel):
    evaluations: list[ModelEvaluation]


class Checkpoint(BaseModel):
    id: str
    size: int = Field(description="Bytes")


class Image(BaseModel):
    id: str
    media_type: str
    width: int
    height: int
    size: int = Field(description="Bytes")
