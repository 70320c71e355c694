"""A study's request checked against the catalog: names and numbers resolved, an entry for each item.

What is wrong is gathered, so that one answer names every field at fault.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import images
from service.catalog import Catalog
from service.errors import FieldError, InvalidInput
from service.models import Image
from service.schemas import (
    DatasetImages,
    GrayStart,
    MixedImages,
    NoiseStart,
    PatternImages,
    TopImages,
    UploadedImages,
)
from service.settings import Settings
from service.studies import Features, FeatureVisualization, Study, StudyParameters

Source = dict[str, Any]
SMALL, COARSE = 64, 0.5
FRAME_BYTES, MOST_TERMS = 8_000_000, 65_536


class ItemPlan(NamedTuple):
    """What one item aims at, where it starts, and what it has in place of the job's parameters."""

    target: Source
    start: Source
    settings: dict[str, Any] = {}  # noqa: RUF012 - never written


class Plan(NamedTuple):
    """What a job will do: its resolved parameters, an entry an item, and what the client should know."""

    parameters: StudyParameters
    items: list[ItemPlan]
    warnings: list[str]
    weight: int = 1
    """For how many items of a shard each one counts: its restarts, and the memory that its frames take."""


class Planner:
    """One request on its way to a plan. `errors` holds what is wrong with it so far."""

    def __init__(self, request: Study, catalog: Catalog, session: Session, settings: Settings) -> None:
        self.request, self.catalog, self.session, self.settings = request, catalog, session, settings
        self.errors: list[FieldError] = []
        for field in ("model", "judge"):
            if (name := getattr(request, field)) is not None and name not in catalog.models:
                self.refuse(field, f"is unknown; allowed: {', '.join(catalog.models) or 'none'}")
        for name in type(request).model_fields:
            for field, dataset in _datasets(name, getattr(request, name)):
                if dataset not in catalog.datasets:
                    self.refuse(field, f"is unknown; allowed: {', '.join(catalog.datasets) or 'none'}")
        self.raise_errors()
        self.model = catalog.models[request.model]
        self.k = self._coordinates()

    def refuse(self, field: str, message: str) -> None:
        self.errors.append(FieldError(field, message))

    def raise_errors(self) -> None:
        """Raises InvalidInput with everything that was refused."""
        if self.errors:
            raise InvalidInput(*self.errors)

    def _coordinates(self) -> int:
        """How many coordinates the layer has."""
        known = {"penultimate": [self.model.features], "logits": [len(self.model.classes)], **self.model.layers}
        if self.request.layer not in known:
            self.refuse("layer", f"is unknown; allowed for {self.model.name}: {', '.join(known)}")
            self.raise_errors()
        shape = known[self.request.layer]
        return shape[0] if self.request.pool == "mean" else math.prod(shape)

    def resolve(self) -> dict[str, Any]:
        """The preset's values, with the request's in their place."""
        preset = self.request.PRESETS[self.request.preset]
        given = {name: getattr(self.request, name) for name in preset}
        return {name: preset[name] if value is None else value for name, value in given.items()}

    def judge(self) -> str | None:
        """The named judge, or the model's own."""
        choices = (self.request.judge, self.model.judge)
        return next((name for name in choices if name in self.catalog.models), None)

    def bound(self, field: str, items: int) -> None:
        """Before any of them is planned: there are not too many. Raises InvalidInput, naming `field`."""
        if (rows := items * self.request.restarts) > self.settings.max_items:
            self.refuse(field, f"asks for {rows} optimisations, restarts included; allowed: {self.settings.max_items}")
        self.raise_errors()

    def plan(self, chosen: dict[str, Any], items: list[ItemPlan]) -> Plan:
        """The finished plan. Raises InvalidInput."""
        if chosen["steps"] > self.settings.max_steps:
            self.refuse("steps", f"is {chosen['steps']}; allowed: at most {self.settings.max_steps}")
        side = self.model.input_size
        if self.request.random_start and chosen.get("eps", 0) >= (diagonal := math.sqrt(3 * side**2)):
            self.refuse(
                "random_start", f"at eps {chosen['eps']:g} leaves nothing of the start; allowed: eps < {diagonal:.1f}"
            )
        judge = self.judge()
        if judge and (other := self.catalog.models[judge].input_size) != side:
            self.refuse(
                "judge", f"takes {other} x {other} pixels and {self.model.name} {side} x {side}; allowed: the same"
            )
        self.raise_errors()
        known = self.request.model_dump(mode="json") | chosen
        parameters = StudyParameters.model_validate(
            known
            | {
                "eps": chosen.get("eps", 0.0), "model_digest": self.model.digest, "curve": self.request.CURVE,
                "judge": judge, "judge_digest": self.catalog.models[judge].digest if judge else None,
            }
        )  # fmt: skip
        frames = self.request.frames * 3 * self.model.input_size**2
        weight = self.request.restarts * (1 + frames // FRAME_BYTES)
        return Plan(parameters, items, self._warnings(parameters, chosen), weight)

    def _warnings(self, p: StudyParameters, chosen: dict[str, Any]) -> list[str]:
        side, warnings = self.model.input_size, []
        diagonal = math.sqrt(3 * side**2)
        radius = max([p.eps, *chosen.get("radii", [])])
        step = min(p.step_size, 2.5 * radius / p.steps) if "radii" in chosen else p.step_size
        if radius >= diagonal and not p.regularization:
            warnings.append(
                f"eps {radius:g} never binds: no two images of {side} x {side} pixels are further apart than"
                f" {diagonal:.1f}"
            )
        if step >= COARSE and side <= SMALL and not p.regularization:
            warnings.append(
                f"step_size {step:g} is coarse for {side} x {side} pixels and leaves visible noise;"
                " the preset cifar takes 0.1"
            )
        if p.preset == "cifar":
            warnings.append("the preset cifar is not the paper's: its steps are scaled to 32 x 32 pixels")
        if p.judge is None:
            warnings.append(f"{p.model} has no judge and none was named: results are not judged")
        elif p.judge == p.model:
            warnings.append("the judge is the model itself: it is not independent")
        elif set(self.catalog.models[p.judge].classes) != set(self.model.classes):
            warnings.append(f"the judge {p.judge} has other classes than {p.model} and can agree only on shared ones")
        return warnings

    def images(self, field: str, source: Any) -> list[Source]:
        """One entry an image."""
        if isinstance(source, MixedImages):
            return [e for i, part in enumerate(source.parts) for e in self.images(f"{field}.parts.{i}", part)]
        if isinstance(source, DatasetImages):
            return self._from_dataset(field, source)
        if isinstance(source, PatternImages):
            return [
                {"source": "pattern", "pattern": kind, "seed": source.seed, "number": n, "label": None}
                for n, kind in enumerate(source.patterns)
            ]
        return self._uploaded(field, source)

    def starts(self, field: str, source: Any, count: int) -> list[Source]:
        """`count` starts: one image for all, or one for each; noise is drawn anew for each."""
        if isinstance(source, NoiseStart):
            return [source.model_dump() | {"draw": i} for i in range(count)]
        named = [source.model_dump()] if isinstance(source, GrayStart) else self.images(field, source)
        return named * count if len(named) == 1 else named

    def _uploaded(self, field: str, source: UploadedImages) -> list[Source]:
        rows = {row.id: row for row in self.session.scalars(select(Image).where(Image.id.in_(set(source.images))))}
        entries = []
        for i, image_id in enumerate(source.images):
            if (row := rows.get(image_id)) is None:
                self.refuse(f"{field}.images.{i}", "is unknown; post the image to /v1/images first")
                continue
            exact = row.media_type == images.TENSOR
            resized = self._resized(f"{field}.images.{i}", row.width, row.height, exact)
            entries.append({"source": "image", "image": image_id, "resized": resized, "label": None})
        return entries

    def _from_dataset(self, field: str, source: DatasetImages) -> list[Source]:
        dataset = self.catalog.datasets[source.dataset]
        side, size = dataset.card.image_size, dataset.card.size
        resized = self._resized(f"{field}.dataset", side, side)
        entries = []
        for i, index in enumerate(source.indices):
            if index >= size:
                self.refuse(f"{field}.indices.{i}", f"is {index}; allowed: 0 to {size - 1}")
                continue
            label = dataset.card.classes[dataset.labels[index]]
            entry = {"source": "dataset", "dataset": source.dataset, "index": index, "resized": resized, "label": label}
            entries.append(entry)
        return entries

    def _resized(self, field: str, width: int, height: int, exact: bool = False) -> str | None:
        size = self.model.input_size
        if (exact or self.request.resize == "refuse") and (width, height) != (size, size):
            why = "a tensor is not resampled" if exact else "resize is 'refuse'"
            self.refuse(field, f"is {width} x {height}; {self.model.name} takes {size} x {size}, and {why}")
        return images.describe_resize(width, height, size, self.request.resize)

    def directions(self, request: Features) -> list[Source]:
        """What to maximise: one entry a coordinate or combination, in the order asked."""
        terms: list[list[tuple[int, float]]] = []
        for i, coordinate in enumerate(request.coordinates):
            self._in_layer(f"coordinates.{i}", coordinate)
            terms.append([(coordinate, 1.0)])
        if request.random_coordinates > self.k:
            self.refuse("random_coordinates", f"is {request.random_coordinates}; allowed: at most {self.k}")
        else:
            drawn = np.random.default_rng(request.seed).permutation(self.k)[: request.random_coordinates]
            terms += [[(int(coordinate), 1.0)] for coordinate in drawn]
        for i, combination in enumerate(request.combinations):
            for j, term in enumerate(combination):
                self._in_layer(f"combinations.{i}.{j}.coordinate", term.coordinate)
            terms.append([(term.coordinate, term.weight) for term in combination])
        if sum(map(len, terms)) > MOST_TERMS:
            self.refuse("combinations", f"names {sum(map(len, terms)):,} terms; allowed: {MOST_TERMS:,} in all")
        return [
            {"source": "direction", "direction": n, "layer": request.layer, "terms": each, "label": self._label(each)}
            for n, each in enumerate(terms)
        ]

    def _in_layer(self, field: str, coordinate: int) -> None:
        if coordinate >= self.k:
            self.refuse(field, f"is {coordinate}; allowed: 0 to {self.k - 1}, the coordinates of {self.request.layer}")

    def _label(self, terms: list[tuple[int, float]]) -> str:
        if len(terms) == 1 and terms[0][1] == 1:
            i, named = terms[0][0], self.model.classes if self.request.layer == "logits" else []
            return f"class {named[i]}" if i < len(named) else f"coordinate {i}"
        return " + ".join(f"{weight:g} R{i}" for i, weight in terms[:4]) + (" + ..." if len(terms) > 4 else "")

    def visible(self, request: FeatureVisualization) -> None:
        """The data set of `top_images` is large enough, and its images are of a size that the model can take."""
        if (top := request.top_images) is None:
            return
        card = self.catalog.datasets[top.dataset].card
        self._resized("top_images.dataset", card.image_size, card.image_size)
        if 2 * top.k > card.size:
            self.refuse("top_images.k", f"is {top.k}; allowed: at most {card.size // 2}, half of the data set")


def _datasets(field: str, value: Any) -> Iterator[tuple[str, str]]:
    """The data sets that a field of a request names, and where."""
    if isinstance(value, DatasetImages | TopImages):
        yield f"{field}.dataset", value.dataset
    elif isinstance(value, MixedImages):
        yield from _datasets(f"{field}.parts", value.parts)
    elif isinstance(value, list):
        for i, each in enumerate(value):
            yield from _datasets(f"{field}.{i}", each)
