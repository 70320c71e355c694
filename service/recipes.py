"""The paper's figures and tables by name: each becomes jobs, whose results one more job then draws and measures.

A part's label is `model` or `baseline`, and after a slash what sets it apart from other parts of that network.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import Field, model_validator

from service.evaluation import Evaluated
from service.requests import Submission
from service.schemas import (
    BlendStart,
    Finite,
    GrayStart,
    Images,
    Lambdas,
    Name,
    NoiseStart,
    OtherTargetStart,
    Pattern,
    PatternImages,
    Radii,
    Regularization,
    Start,
    Until,
)
from service.studies import Features, Study

ALL_PATTERNS = PatternImages(source="patterns", patterns=list(get_args(Pattern)))
Parts = dict[str, dict[str, Any]]


class Networks(Submission):
    """What every recipe takes: a network, and another to compare it with."""

    model: Name = Field(description="The network, usually the robust one")
    baseline: Name | None = Field(None, description="The network to compare with; left out: the model's twin")

    def networks(self) -> dict[str, str | None]:
        """Networks by the label of their parts."""
        return {"model": self.model, "baseline": self.baseline}


class Comparison(Networks, Study):
    """What every figure takes beside that: the parameters of its studies."""

    def starts_differ(self) -> bool:
        return True  # each study judges its own


class InversionFigure(Comparison):
    """Inversions of `images`."""

    images: Images = Field(description="The targets")
    starts: Start = Field(
        default_factory=OtherTargetStart, description="Left out: each image starts from the next one of `images`"
    )


class NoiseFigure(Comparison):
    """Inversions of `images` from noise."""

    images: Images = Field(description="The targets")


class OutOfDistributionFigure(NoiseFigure):
    """Inversions from noise, of test images and of pictures unlike any that the networks were trained on."""

    out_of_distribution: Images = Field(ALL_PATTERNS, description="Other classes, patterns, or uploads")


class SweepFigure(InversionFigure):
    """Inversions within each radius of a grid."""

    radii: Radii = None


class CoordinatesFigure(Comparison, Features):
    """Maximised coordinates."""

    random_coordinates: int = Field(0, ge=0, le=65_536, description="So many more, drawn from the seed")


class Third(Networks):
    """Up to three networks."""

    other: Name | None = Field(None, description="A third network, such as a VGG16")

    def networks(self) -> dict[str, str | None]:
        return super().networks() | ({"other": self.other} if self.other else {})


class VisualizationFigure(Third, CoordinatesFigure):
    """Coordinates maximised from noise and from images."""

    images: Images | None = Field(None, description="Images to start from")
    noise_starts: int = Field(2, ge=0, le=100, description="How many draws of noise to start from")

    @model_validator(mode="after")
    def _starts(self) -> "VisualizationFigure":
        if self.images is None and not self.noise_starts:
            raise ValueError("names no start; allowed: images, or noise_starts over 0")
        return self


class MaximizerFigure(CoordinatesFigure):
    """Gray-start maximisers beside the images of a data set that activate each coordinate most and least."""

    dataset: Name
    k: int | None = Field(None, ge=1, le=32, description="So many images at either end; left out: 3, notebook 5")


class RegularizedFigure(CoordinatesFigure):
    """Coordinates maximised with and without regularization."""

    regularized_steps: int = Field(512, ge=1, le=100_000)
    regularization: Regularization = Field(
        Regularization(scale=0.0),
        description="Left out: random jitter and rotation. The regularized parts know no eps, step_size, best, solver, "
        "schedule or patience",
    )


class ManipulationFigure(CoordinatesFigure):
    """Features added to `images`."""

    images: Images
    until: Until = None
    threshold: Finite | None = Field(None, description="For until: threshold")


class InterpolationFigure(Comparison):
    """Paths between pairs of images."""

    first: Images
    second: Images
    lambdas: Lambdas = None


class AccuracyTable(Third, Evaluated):
    """Accuracies of the networks, clean and under attack."""


Expand = Callable[[Any], Parts]
"""A recipe's request to what sets each part's study apart, by label; `*` stands for every network."""


def _inversions(start: Any = None) -> Expand:
    def expand(r: Any) -> Parts:
        return {"*": {"kind": "inversion", "targets": r.images, "start": start or r.starts}}

    return expand


def _both_starts(r: InversionFigure) -> Parts:
    return {
        f"*/{name}": {"kind": "inversion", "targets": r.images, "start": start}
        for name, start in {"images": r.starts, "noise": NoiseStart()}.items()
    }


def _out_of_distribution(r: OutOfDistributionFigure) -> Parts:
    sources = {"test": r.images, "out of distribution": r.out_of_distribution}
    return {f"*/{name}": {"kind": "inversion", "targets": images} for name, images in sources.items()}


def _sweep(r: SweepFigure) -> Parts:
    return {"*": {"kind": "radius_sweep", "targets": r.images, "start": r.starts, "radii": r.radii}}


def _features(r: Features) -> dict[str, Any]:
    return {name: getattr(r, name) for name in ("coordinates", "random_coordinates", "combinations")}


def _visualizations(r: VisualizationFigure) -> Parts:
    starts = [*[NoiseStart()] * r.noise_starts, *([r.images] if r.images else [])]
    return {"*": {"kind": "feature_visualization", "starts": starts, **_features(r)}}


def _maximizers(r: MaximizerFigure) -> Parts:
    # The released notebook maximises these more slowly than other coordinates, and shows more images.
    notebook = {"eps": 500.0, "step_size": 0.5, "steps": 1500} if r.preset == "notebook" else {}
    own = {name: value for name, value in notebook.items() if getattr(r, name) is None}
    top = {"dataset": r.dataset, "k": r.k or (5 if notebook else 3)}
    return {"*": {"kind": "feature_visualization", "starts": [GrayStart()], "top_images": top, **own, **_features(r)}}


def _regularized(r: RegularizedFigure) -> Parts:
    plain = {"kind": "feature_visualization", "starts": [NoiseStart()], **_features(r)}
    regularized = plain | {"steps": r.regularized_steps, "patience": 0}
    regularized |= dict.fromkeys(("eps", "step_size", "best", "solver", "schedule"))
    fourier = r.regularization.model_copy(update={"parametrization": "fourier", "decorrelate": True})
    rules = {"regularized": r.regularization} | ({"fourier": fourier} if fourier != r.regularization else {})
    parts = {f"baseline/{name}": regularized | {"regularization": rule} for name, rule in rules.items()}
    return {"*/plain": plain} | parts


def _manipulations(r: ManipulationFigure) -> Parts:
    stop = {"until": r.until, "threshold": r.threshold}
    return {"*": {"kind": "feature_manipulation", "images": r.images, **stop, **_features(r)}}


def _interpolations(r: InterpolationFigure) -> Parts:
    ends = {"first": r.first, "second": r.second, "lambdas": r.lambdas, "start": BlendStart()}
    return {"*": {"kind": "interpolation", **ends}}


def _evaluations(_: AccuracyTable) -> Parts:
    return {"*": {"kind": "evaluation"}}


@dataclass(frozen=True)
class Recipe:
    """A figure or table: what it shows, what it takes, and the jobs behind it."""

    title: str
    request: type[Networks]
    expand: Expand


_NOISE = NoiseStart()
RECIPES: Mapping[str, Recipe] = {
    "figure-2": Recipe(
        "Pairs of images with near-equal representations and different content", InversionFigure, _inversions()
    ),
    "figure-3": Recipe("Inversion from other images", InversionFigure, _inversions()),
    "figure-4": Recipe("Representation distance against the radius of the search", SweepFigure, _sweep),
    "figure-5": Recipe("The images found within each radius", SweepFigure, _sweep),
    "figure-6": Recipe(
        "Inversion of test images and of out-of-distribution images", OutOfDistributionFigure, _out_of_distribution
    ),
    "figure-7": Recipe("Coordinates maximised from noise and images", VisualizationFigure, _visualizations),
    "figure-8": Recipe("Maximising inputs beside most and least activating images", MaximizerFigure, _maximizers),
    "figure-10": Recipe("Regularized visualisation of a standard network", RegularizedFigure, _regularized),
    "figure-11": Recipe("A feature added to images", ManipulationFigure, _manipulations),
    "figure-12": Recipe("Interpolation through the representation and in pixels", InterpolationFigure, _interpolations),
    "figure-13": Recipe("Inversion from other images and from noise", InversionFigure, _both_starts),
    "figure-14": Recipe("Inversion of more out-of-distribution images", OutOfDistributionFigure, _out_of_distribution),
    "figure-15": Recipe("Inversion of standard representations from noise", NoiseFigure, _inversions(_NOISE)),
    "figure-16": Recipe("Inversion from other images, another data set", InversionFigure, _inversions()),
    "figure-17": Recipe("More interpolations, robust", InterpolationFigure, _interpolations),
    "figure-18": Recipe("Interpolations, standard", InterpolationFigure, _interpolations),
    "figure-19": Recipe("Random coordinates with the predicted class", VisualizationFigure, _visualizations),
    "figure-20": Recipe("Chosen coordinates with the predicted class", VisualizationFigure, _visualizations),
    "figure-21": Recipe("Coordinates of robust, standard and a third network", VisualizationFigure, _visualizations),
    "figure-22": Recipe("The same, another data set", VisualizationFigure, _visualizations),
    "figure-23": Recipe("Many features added to images", ManipulationFigure, _manipulations),
    "table-4": Recipe("Accuracy, clean and under attack (the paper: Restricted ImageNet)", AccuracyTable, _evaluations),
    "table-5": Recipe("Accuracy, clean and under attack (the paper: ImageNet)", AccuracyTable, _evaluations),
}
