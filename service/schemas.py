"""What clients send. Every bound on a request stands here."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

NAME, DIGEST = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", r"^sha256:[0-9a-f]{64}$"
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=NAME)]
ImageId = Annotated[str, Field(pattern=DIGEST, description="As answered by POST /v1/images")]
LONGEST_LIST = 65_536  # what a request may hold at all; `max_items` bounds a job
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Coordinate = Annotated[int, Field(ge=0)]
ClassName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
ManifestId = Annotated[str, Field(pattern=DIGEST, description="As answered by POST /v1/manifests")]


def _below(key: str) -> str:
    if ".." in key.split("/"):
        raise ValueError("leaves its folder; allowed: keys without ..")
    return key


InBucket = Annotated[str, Field(max_length=500, pattern=r"^imports/[A-Za-z0-9._ /=@+,-]*$"), AfterValidator(_below)]


class Request(BaseModel):
    """Unknown fields are refused, and no value is guessed from another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class JobParameters(BaseModel):
    """A job's parameters with nothing left open: what the worker reads and every result records."""

    model_config = ConfigDict(frozen=True)

    kind: str
    steps: int = Field(description="Most steps that an item takes, in which progress is counted")


def _increasing(values: list[float] | None) -> list[float] | None:
    if values is not None and sorted(set(values)) != values:
        raise ValueError("must increase")
    return values


Radii = Annotated[
    Annotated[list[Annotated[Finite, Field(gt=0, le=1e6)]], Field(min_length=1, max_length=64)] | None,
    AfterValidator(_increasing),
]
Lambdas = Annotated[
    Annotated[list[Annotated[Finite, Field(ge=0, le=1)]], Field(min_length=1, max_length=1000)] | None,
    AfterValidator(_increasing),
]
Until = Annotated[
    Literal["exceeds_all", "threshold", "steps"] | None,
    Field(description="Stop an image when its coordinate exceeds every other, reaches a threshold, or never"),
]


class Slice(Request):
    """Every `step`-th from `start` on, up to but without `stop`; null: to the end."""

    start: int = Field(0, ge=0, lt=2**31)
    stop: int | None = Field(None, ge=0, lt=2**31)
    step: int = Field(1, ge=1, lt=2**31)


class DatasetImages(Request):
    """Images of a registered data set: all, or those that `indices` or `slice` name, of `classes`, `random` of them."""

    source: Literal["dataset"]
    dataset: Name
    indices: list[Annotated[int, Field(ge=0, lt=2**31)]] | None = Field(None, min_length=1, max_length=LONGEST_LIST)
    slice: Slice | None = None
    classes: list[ClassName] | None = Field(None, min_length=1, max_length=10_000, description="Only images of these")
    random: int | None = Field(None, ge=1, lt=2**31, description="So many of what is left, drawn from `seed`, in order")
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_list(self) -> "DatasetImages":
        if self.indices is not None and self.slice is not None:
            raise ValueError("indices and slice both name images; allowed: one of them")
        return self


class UploadedImages(Request):
    """Images, or tensors of the model's size, that were posted to /v1/images."""

    source: Literal["images"]
    images: list[ImageId] = Field(min_length=1, max_length=LONGEST_LIST)


class PrefixImages(Request):
    """Every picture in the bucket whose key begins so, in order of key."""

    source: Literal["prefix"]
    prefix: InBucket = Field(description="Begins with imports/")


class ManifestImages(Request):
    """What the lines of a file name: `{"dataset", "index"}`, `{"image"}` or `{"key"}`, with `id` and `label` if wanted.

    JSON lines, or CSV with a header of these names. It was uploaded to /v1/manifests, or lies in the bucket.
    """

    source: Literal["manifest"]
    manifest: ManifestId | None = None
    key: InBucket | None = Field(None, description="Begins with imports/")

    @model_validator(mode="after")
    def _one_place(self) -> "ManifestImages":
        if (self.manifest is None) == (self.key is None):
            raise ValueError("allowed: either manifest, as POST /v1/manifests answered, or key, in the bucket")
        return self


class NoiseStart(Request):
    """Gaussian pixels, clipped to [0, 1], drawn from (seed, number of the start, restart)."""

    source: Literal["noise"] = "noise"
    mean: Finite = Field(0.5, ge=0, le=1)
    std: Finite = Field(0.05, ge=0, le=1)


Pattern = Literal["stripes", "checkerboard", "gradient", "circles", "polygons", "blobs", "scribbles", "text"]


class PatternImages(Request):
    """Structured random pictures, far from any photograph; picture n is drawn from (seed, n) at the model's size."""

    source: Literal["patterns"]
    patterns: list[Pattern] = Field(min_length=1, max_length=LONGEST_LIST)
    seed: Seed = 0


class MixedImages(Request):
    """Images of several sources, one after the other."""

    source: Literal["mixed"]
    parts: list[Annotated[DatasetImages | UploadedImages | PatternImages, Field(discriminator="source")]] = Field(
        min_length=1, max_length=100
    )


class GrayStart(Request):
    """One gray level everywhere."""

    source: Literal["gray"] = "gray"
    level: Finite = Field(0.5, ge=0, le=1)


class OtherTargetStart(Request):
    """Each item starts from the target of the next one, the last from the first's."""

    source: Literal["other_target"] = "other_target"


class BlendStart(Request):
    """Each item starts from the pixel blend of its two endpoints."""

    source: Literal["blend"] = "blend"


_Named = DatasetImages | UploadedImages | PatternImages | MixedImages
Images = Annotated[_Named, Field(discriminator="source")]
BulkImages = Annotated[_Named | PrefixImages | ManifestImages, Field(discriminator="source")]
LoneStart = Annotated[_Named | NoiseStart | GrayStart, Field(discriminator="source")]
Start = Annotated[_Named | NoiseStart | GrayStart | OtherTargetStart, Field(discriminator="source")]


def listed(source: Request) -> bool:
    """Whether a source says itself which images it names: not so a filter, a prefix or a manifest."""
    if isinstance(source, MixedImages):
        return all(map(listed, source.parts))
    if isinstance(source, DatasetImages):
        return source.indices is not None and source.classes is None and source.random is None
    return not isinstance(source, PrefixImages | ManifestImages)


def count(source: Request) -> int:
    """How many images a listed source names; 1 for a start that is made, not named."""
    if isinstance(source, MixedImages):
        return sum(map(count, source.parts))
    for name in ("indices", "images", "patterns"):
        if (named := getattr(source, name, None)) is not None:
            return len(named)
    return 1


class Term(Request):
    """One coordinate of a linear combination."""

    coordinate: Coordinate
    weight: Finite = Field(1.0, ge=-1e6, le=1e6)


class Regularization(Request):
    """Lucid's regularised ascent in place of PGD: random transformations, Adam, a choice of parametrization.

    Lengths are pixels of a 224-pixel image, and are scaled to the model's size.
    """

    jitter: Finite = Field(8, ge=0, le=224)
    scale: Finite = Field(0.1, ge=0, lt=1, description="Enlarge or shrink by up to this fraction")
    rotate: Finite = Field(10, ge=0, le=180, description="Degrees")
    final_jitter: Finite = Field(4, ge=0, le=224)
    parametrization: Literal["pixel", "fourier"] = "pixel"
    decay: Finite = Field(1.0, ge=0, le=4, description="Power of the frequency that divides the spectrum")
    decorrelate: bool = Field(False, description="Decorrelated colours")
    learning_rate: Finite = Field(0.05, gt=0, le=10)


class TopImages(Request):
    """Images of a data set that activate a direction most and least."""

    dataset: Name
    k: int = Field(3, ge=1, le=32)
