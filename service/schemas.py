"""What clients send and receive. Every bound on a request stands here."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
ImageId = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", description="As answered by POST /v1/images")]
LONGEST_LIST = 65_536  # what a request may hold at all; `max_items` bounds a job
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Request(BaseModel):
    """Unknown fields are refused, and no value is guessed from another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DatasetImages(Request):
    """Images of a registered data set, by index."""

    source: Literal["dataset"]
    dataset: Name
    indices: list[Annotated[int, Field(ge=0)]] = Field(min_length=1, max_length=LONGEST_LIST)


class UploadedImages(Request):
    """Images that were posted to /v1/images."""

    source: Literal["images"]
    images: list[ImageId] = Field(min_length=1, max_length=LONGEST_LIST)


class NoiseStart(Request):
    """Gaussian pixels, clipped to [0, 1]; each item draws its own from (seed, item index)."""

    source: Literal["noise"] = "noise"
    mean: Finite = Field(0.5, ge=0, le=1)
    std: Finite = Field(0.05, ge=0, le=1)


Targets = Annotated[DatasetImages | UploadedImages, Field(discriminator="source")]
Start = Annotated[DatasetImages | UploadedImages | NoiseStart, Field(discriminator="source")]

INVERSION_PRESETS: dict[str, dict[str, Any]] = {
    # Engstrom et al. 2019, section 4.1 and appendix A.
    "paper": {"eps": 1000.0, "step_size": 1.0, "steps": 10_000, "loss": "distance", "best": False},
    # The released notebook: the loss divided by ||t||, which leaves the direction of every step unchanged.
    "notebook": {"eps": 1000.0, "step_size": 1.0, "steps": 10_000, "loss": "relative_distance", "best": False},
    # Ours, for 32 x 32 pixels: a step of 1 is too coarse there and leaves visible noise.
    "cifar": {"eps": 1000.0, "step_size": 0.1, "steps": 300, "loss": "distance", "best": False},
}


class InversionRequest(Request):
    """Find an image whose representation is a target image's: min ||R(x0 + d) - R(target)||, ||d|| <= eps (eq. 4).

    A parameter that is left out has the preset's value.
    """

    kind: Literal["inversion"]
    model: Name = Field(description="The network whose representation is inverted")
    judge: Name | None = Field(
        None, description="An independent network that classifies the results; left out: the model's twin"
    )
    targets: Targets
    start: Start = Field(default_factory=NoiseStart, description="One image for all items, or one for each")
    preset: Literal["paper", "notebook", "cifar"] = "paper"
    eps: Finite | None = Field(None, ge=0, le=1e6, description="L2 radius around the start, pixels in [0, 1]")
    step_size: Finite | None = Field(None, gt=0, le=1e6, description="L2 length of a step, pixels in [0, 1]")
    steps: int | None = Field(None, ge=1, le=100_000)
    loss: Literal["distance", "relative_distance"] | None = Field(None, description="||R - t||, or that over ||t||")
    best: bool | None = Field(None, description="Keep the iterate of least loss, not the last")
    identity_relu: bool = Field(True, description="Gradients pass the last ReLU unchanged")
    resize: Literal["center-crop", "stretch", "refuse"] = Field(
        "center-crop", description="What to do with images of another size than the model's"
    )
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _starts_match(self) -> "InversionRequest":
        if not isinstance(self.start, NoiseStart) and count(self.start) not in (1, count(self.targets)):
            raise ValueError(f"start has {count(self.start)} images; allowed: 1 or {count(self.targets)}, as targets")
        return self


def count(source: DatasetImages | UploadedImages) -> int:
    """How many images a source names."""
    return len(source.indices if isinstance(source, DatasetImages) else source.images)


JobRequest = InversionRequest
"""The union of all kinds, tagged by `kind`."""


class InversionParameters(BaseModel):
    """A job's parameters with nothing left open: what the worker reads and every result records."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["inversion"] = "inversion"
    model: str
    model_digest: str
    judge: str | None
    judge_digest: str | None
    targets: Targets
    start: Start
    preset: str
    eps: float
    step_size: float
    steps: int
    loss: Literal["distance", "relative_distance"]
    best: bool
    identity_relu: bool
    resize: Literal["center-crop", "stretch", "refuse"]
    seed: int


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


class Progress(BaseModel):
    """Image-steps done and to do; `curve` is [step, median relative distance] of what runs now."""

    steps_done: int
    steps_total: int
    fraction: float
    curve: list[tuple[float, float]]
    rate: float | None = Field(description="Image-steps a second")
    eta_seconds: float | None


class JobLinks(BaseModel):
    self: str
    items: str
    artifacts: str
    cancel: str


class Job(BaseModel):
    id: str
    kind: str
    state: str
    parameters: dict[str, Any]
    warnings: list[str]
    created_at: datetime
    finished_at: datetime | None
    transitions: list[Transition]
    items: ItemCounts
    progress: Progress
    error: dict[str, Any] | None
    links: JobLinks


class JobList(BaseModel):
    jobs: list[Job]
    next_cursor: str | None


class Artifact(BaseModel):
    name: str
    media_type: str
    size: int = Field(description="Bytes")
    sha256: str
    url: str


class JobArtifact(Artifact):
    item: int


class ArtifactList(BaseModel):
    artifacts: list[JobArtifact]
    next_cursor: str | None


class Item(BaseModel):
    index: int
    state: str
    target: dict[str, Any]
    start: dict[str, Any]
    metrics: dict[str, Any] | None
    provenance: dict[str, Any] | None
    error: dict[str, Any] | None
    finished_at: datetime | None
    artifacts: list[Artifact]


class ItemList(BaseModel):
    items: list[Item]
    next_cursor: str | None


class Image(BaseModel):
    id: str
    media_type: str
    width: int
    height: int
    size: int = Field(description="Bytes")


class ModelCard(BaseModel):
    """A shipped or registered network. Accuracies are fractions of the whole test set."""

    model_config = ConfigDict(extra="allow")

    name: str
    title: str
    architecture: str
    input_size: int
    features: int
    classes: list[str]
    digest: str
    twin: str | None
    epsilon: float
    clean_accuracy: float
    pgd20_accuracy: float


class DatasetCard(BaseModel):
    """A data set that jobs can name."""

    model_config = ConfigDict(extra="allow")

    name: str
    title: str
    size: int
    image_size: int
    classes: list[str]
    digest: str
    licence: str
