"""The studies of the paper, as job requests: every field and its bounds.

A preset's values (`service/presets.py`) stand where the request is silent.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from service import presets
from service.images import Resize
from service.presets import Presets
from service.requests import Submission
from service.schemas import (
    BlendStart,
    BulkImages,
    Coordinate,
    DatasetImages,
    Finite,
    GrayStart,
    Images,
    JobParameters,
    Lambdas,
    LoneStart,
    Name,
    NoiseStart,
    OtherTargetStart,
    PatternImages,
    Radii,
    Regularization,
    Request,
    Seed,
    Start,
    Term,
    TopImages,
    Until,
    UploadedImages,
    count,
    listed,
)
from service.searches import Approach, Search, SearchParameters


class Layer(Submission):
    """A layer of a network, and how images are brought to it."""

    model: Name = Field(description="The network whose representation is studied")
    layer: str = Field(
        "penultimate", min_length=1, max_length=200, description="penultimate, logits, or a layer on the model's card"
    )
    pool: Literal["mean", "flatten"] = Field(
        "mean", description="Coordinates of a layer with height and width: a mean for each channel, or every unit"
    )
    resize: Resize = Field("center-crop", description="What to do with images of another size than the model's")
    seed: Seed = 0


class Study(Search, Layer):
    """What every study of an image by PGD on a representation has in common."""

    PRESETS: ClassVar[Presets] = {}
    CURVE: ClassVar[str] = "relative_distance"

    judge: Name | None = Field(
        None, description="An independent network that classifies the results; left out: the one on the model's card"
    )
    preset: Literal["paper", "notebook", "cifar", "fast"] = "paper"
    eps: Finite | None = Field(None, ge=0, le=1e6, description="L2 radius around the start, pixels in [0, 1]")
    step_size: Finite | None = Field(None, gt=0, le=1e6, description="L2 length of a step, pixels in [0, 1]")
    steps: int | None = Field(None, ge=1, le=100_000)
    best: bool | None = Field(None, description="Keep the iterate of least loss, not the last")
    restarts: int = Field(1, ge=1, le=64, description="Independent starts of each item; the one of least loss is kept")
    random_start: bool = Field(False, description="Begin at a random point at distance eps from the start")
    identity_relu: bool | None = Field(
        None, description="Gradients pass the last ReLU unchanged, as in all of the released notebooks"
    )
    frames: int = Field(0, ge=0, le=256, description="Frames from start to result, in path.gif and frames.png; 0: none")

    def starts_differ(self) -> bool:
        """Whether two restarts of an item begin at different points."""
        start = getattr(self, "start", None)
        return self.random_start or isinstance(start, NoiseStart)

    @model_validator(mode="after")
    def _restarts_and_frames(self) -> "Study":
        if self.restarts > 1 and not self.starts_differ():
            raise ValueError("restarts over 1 need random_start, or a start of noise: they would all be the same")
        if self.frames == 1:
            raise ValueError("frames is 1; allowed: 0 for none, or 2 to 256")
        return self


class Inversion(Study, Approach):
    """Find an image whose representation is a target image's: min ||R(x0 + d) - R(target)||, ||d|| <= eps (eq. 4)."""

    PRESETS: ClassVar[Presets] = presets.INVERSION

    kind: Literal["inversion"]
    targets: BulkImages
    start: Start = Field(default_factory=NoiseStart, description="One image for all items, or one for each")
    loss: Literal["distance", "relative_distance"] | None = Field(None, description="||R - t||, or that over ||t||")
    on_invalid: Literal["fail", "skip"] = Field(
        "fail",
        exclude=True,
        description="Whether entries of a source that name no image fail the job, or are skipped",
    )
    reuse: bool = Field(
        False,
        exclude=True,
        description="Take over the results of equal items that an earlier job has finished",
    )

    @model_validator(mode="after")
    def _starts_match(self) -> "Inversion":
        _starts_match(self.targets, self.start)
        return self


class RadiusSweep(Study, Approach):
    """Inversion within each radius of a grid (figures 4 and 5). An item is a pair of images and a radius.

    The paper states no radii; these are ours. An item's step is at most 2.5 radius / steps, as in the paper's attacks.
    """

    PRESETS: ClassVar[Presets] = presets.RADIUS_SWEEP

    kind: Literal["radius_sweep"]
    targets: Images
    start: Start = Field(default_factory=NoiseStart, description="One image for all pairs, or one for each")
    radii: Radii = Field(None, description="L2 radii, increasing")
    loss: Literal["distance", "relative_distance"] | None = Field(None, description="||R - t||, or that over ||t||")

    @model_validator(mode="after")
    def _consistent(self) -> "RadiusSweep":
        if self.eps is not None:
            raise ValueError("eps has no place in a radius sweep; allowed: radii")
        _starts_match(self.targets, self.start)
        return self


class Interpolation(Study, Approach):
    """Images whose representations lie between two images': lambda R(x1) + (1 - lambda) R(x2) (eq. 6).

    An item is a pair and a lambda.
    """

    PRESETS: ClassVar[Presets] = presets.INTERPOLATION

    kind: Literal["interpolation"]
    first: Images
    second: Images
    lambdas: Lambdas = Field(None, description="Weights of the first image, each in [0, 1], increasing")
    start: Annotated[
        BlendStart | NoiseStart | GrayStart | DatasetImages | UploadedImages | PatternImages,
        Field(discriminator="source"),
    ] = Field(default_factory=BlendStart, description="One image for all pairs, or one for each")

    @model_validator(mode="after")
    def _paired(self) -> "Interpolation":
        if not (listed(self.first) and listed(self.second)):
            return self
        if count(self.first) != count(self.second):
            raise ValueError(f"first has {count(self.first)} images and second {count(self.second)}; they are pairs")
        if not isinstance(self.start, BlendStart):
            _starts_match(self.first, self.start)
        return self


class Directions(Request):
    """Coordinates of the layer, and linear combinations of them."""

    coordinates: list[Coordinate] = Field([], max_length=65_536)
    random_coordinates: int = Field(0, ge=0, le=65_536, description="So many more, drawn from the seed")
    combinations: list[Annotated[list[Term], Field(min_length=1, max_length=4096)]] = Field([], max_length=4096)

    @model_validator(mode="after")
    def _something(self) -> "Directions":
        if not (self.coordinates or self.random_coordinates or self.combinations):
            raise ValueError("names nothing to maximise; allowed: coordinates, random_coordinates or combinations")
        if not all(any(term.weight for term in terms) for terms in self.combinations):
            raise ValueError("combinations has one whose weights are all 0, which nothing can raise")
        if any(len({term.coordinate for term in terms}) < len(terms) for terms in self.combinations):
            raise ValueError("combinations has one that names a coordinate twice")
        return self


class Features(Study, Directions):
    """Maximise each direction."""

    CURVE: ClassVar[str] = "activation"


class FeatureVisualization(Features):
    """Maximise coordinates of the representation from several starts: max R(x0 + d)_i (eq. 5).

    An item is a start and a direction. With `regularization`, the baseline of figure 10.
    """

    PRESETS: ClassVar[Presets] = presets.FEATURE_VISUALIZATION

    kind: Literal["feature_visualization"]
    starts: list[LoneStart] = Field([NoiseStart()], min_length=1, max_length=1000)
    regularization: Regularization | None = None
    top_images: TopImages | None = Field(None, description="Also find what activates each direction in a data set")

    def starts_differ(self) -> bool:
        return self.random_start or all(isinstance(start, NoiseStart) for start in self.starts)

    @model_validator(mode="after")
    def _unbounded(self) -> "FeatureVisualization":
        if self.regularization and (self.eps is not None or self.step_size is not None or self.random_start):
            raise ValueError("regularization knows no radius and no step: leave eps, step_size and random_start out")
        if self.regularization and self.best:
            raise ValueError("regularization keeps the last image: leave best out")
        if self.regularization and (self.solver or self.schedule or self.patience):
            raise ValueError("regularization steps by Adam to its end: leave solver, schedule and patience out")
        return self


class FeatureManipulation(Features):
    """Add a feature to images, each until it shows: maximise a coordinate and stop early (section 4.2.1).

    An item is an image and a direction.
    """

    PRESETS: ClassVar[Presets] = presets.FEATURE_MANIPULATION

    kind: Literal["feature_manipulation"]
    images: Images
    until: Until = None
    threshold: Finite | None = Field(None, description="For until: threshold")

    @model_validator(mode="after")
    def _stops(self) -> "FeatureManipulation":
        until = self.until or self.PRESETS[self.preset]["until"]
        if until == "exceeds_all" and self.combinations:
            raise ValueError("until exceeds_all compares one coordinate; combinations need threshold or steps")
        if self.until == "threshold" and self.threshold is None and self.preset != "notebook":
            raise ValueError("until threshold needs a threshold")
        if until != "steps" and self.best:
            raise ValueError("best would keep an image from before its feature showed: leave it out, or until steps")
        if until != "threshold" and self.threshold is not None:
            raise ValueError(f"threshold has no place where until is {until}")
        return self


class StudyParameters(SearchParameters, JobParameters):
    """A study's parameters. What names the images is kept beside them, as it was sent; the items have it resolved."""

    model_config = ConfigDict(extra="allow")

    model: str
    model_digest: str
    judge: str | None
    judge_digest: str | None
    preset: str
    eps: float
    step_size: float
    best: bool
    identity_relu: bool
    resize: Resize
    seed: int
    # Jobs from before these existed may still wait.
    layer: str = "penultimate"
    pool: Literal["mean", "flatten"] = "mean"
    restarts: int = 1
    random_start: bool = False
    frames: int = 0
    curve: str = "relative_distance"
    loss: Literal["distance", "relative_distance"] = "distance"
    until: str | None = None
    threshold: float | None = None
    regularization: Regularization | None = None
    top_images: TopImages | None = None


def _starts_match(targets: Request, start: Request) -> None:
    if isinstance(start, OtherTargetStart):
        if listed(targets) and count(targets) < 2:
            raise ValueError("targets is one image, which cannot start from another target")
    elif isinstance(start, NoiseStart | GrayStart) or not (listed(targets) and listed(start)):
        return
    elif count(start) not in (1, count(targets)):
        raise ValueError(f"start has {count(start)} images; allowed: 1 or {count(targets)}, as targets")
