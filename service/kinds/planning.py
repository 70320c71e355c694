"""A request checked against the catalog: names and numbers resolved, an entry for each item.

What is wrong is gathered, so that one answer names every field at fault.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy.orm import Session

from service import images
from service.cards import DatasetCard
from service.catalog import Catalog
from service.errors import FieldError, InvalidInput
from service.schemas import DatasetImages, JobParameters, MixedImages, Request, TopImages
from service.settings import Settings
from service.studies import Directions, Layer, Study

Source = dict[str, Any]
MOST_TERMS, NAMED_IN_ERROR = 65_536, 20


class ItemPlan(NamedTuple):
    """What one item aims at, where it starts, and what it has in place of the job's parameters."""

    target: Source
    start: Source
    settings: dict[str, Any] = {}  # noqa: RUF012 - never written
    digest: str | None = None


class Plan(NamedTuple):
    """What a job will do: its resolved parameters, an entry an item, and what the client should know."""

    parameters: JobParameters
    items: list[ItemPlan]
    warnings: list[str]
    weight: int = 1
    """For how many items of a shard each one counts: its restarts, and the memory that its frames take."""
    last: ItemPlan | None = None
    """One more item, which waits for all others to be over."""


class LayerPlanner:
    """One request about a network's layer on its way to a plan. `errors` holds what is wrong with it so far."""

    def __init__(self, request: Layer, catalog: Catalog, session: Session, settings: Settings) -> None:
        self.named, self.catalog, self.session, self.settings = request, catalog, session, settings
        named = {field: catalog.models for field in ("model", "judge") if field in type(request).model_fields}
        self.errors = unknown(request, **named)
        for name in type(request).model_fields:
            for field, dataset in _datasets(name, getattr(request, name)):
                if dataset not in catalog.datasets:
                    self.refuse(field, f"is unknown; allowed: {allowed(catalog.datasets)}")
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
        if self.named.layer not in known:
            self.refuse("layer", f"is unknown; allowed for {self.model.name}: {', '.join(known)}")
            self.raise_errors()
        shape = known[self.named.layer]
        return shape[0] if self.named.pool == "mean" else math.prod(shape)

    def resized(self, field: str, width: int, height: int, exact: bool = False) -> str | None:
        size = self.model.input_size
        if (exact or self.named.resize == "refuse") and (width, height) != (size, size):
            why = "a tensor is not resampled" if exact else "resize is 'refuse'"
            self.refuse(field, f"is {width} x {height}; {self.model.name} takes {size} x {size}, and {why}")
        return images.describe_resize(width, height, size, self.named.resize)

    def of_dataset(self, field: str, card: DatasetCard) -> str | None:
        """What becomes of a data set's images, in words, or None if nothing; refused if the request forbids it."""
        if card.image_size is not None:
            return self.resized(field, card.image_size, card.image_size)
        size = self.model.input_size
        if self.named.resize == "refuse":
            self.refuse(field, f"has images of several sizes; {self.model.name} takes {size} x {size}")
        return f"several sizes to {size} x {size}: {self.named.resize}"

    def directions(self, request: Directions, seed: int) -> list[Source]:
        """What to maximise: one entry a coordinate or combination, in the order asked."""
        terms: list[list[tuple[int, float]]] = []
        for i, coordinate in enumerate(request.coordinates):
            self._in_layer(f"coordinates.{i}", coordinate)
            terms.append([(coordinate, 1.0)])
        if request.random_coordinates > self.k:
            self.refuse("random_coordinates", f"is {request.random_coordinates}; allowed: at most {self.k}")
        else:
            drawn = np.random.default_rng(seed).permutation(self.k)[: request.random_coordinates]
            terms += [[(int(coordinate), 1.0)] for coordinate in drawn]
        for i, combination in enumerate(request.combinations):
            for j, term in enumerate(combination):
                self._in_layer(f"combinations.{i}.{j}.coordinate", term.coordinate)
            terms.append([(term.coordinate, term.weight) for term in combination])
        if sum(map(len, terms)) > MOST_TERMS:
            self.refuse("combinations", f"names {sum(map(len, terms)):,} terms; allowed: {MOST_TERMS:,} in all")
        return [
            {
                "source": "direction",
                "direction": n,
                "layer": self.named.layer,
                "terms": each,
                "label": self._label(each),
            }
            for n, each in enumerate(terms)
        ]

    def _in_layer(self, field: str, coordinate: int) -> None:
        if coordinate >= self.k:
            self.refuse(field, f"is {coordinate}; allowed: 0 to {self.k - 1}, the coordinates of {self.named.layer}")

    def _label(self, terms: list[tuple[int, float]]) -> str:
        if len(terms) == 1 and terms[0][1] == 1:
            i, named = terms[0][0], self.model.classes if self.named.layer == "logits" else []
            return f"class {named[i]}" if i < len(named) else f"coordinate {i}"
        return " + ".join(f"{weight:g} R{i}" for i, weight in terms[:4]) + (" + ..." if len(terms) > 4 else "")


def _datasets(field: str, value: Any) -> Iterator[tuple[str, str]]:
    """The data sets that a field of a request names, and where."""
    if field == "dataset":
        yield field, value
    elif isinstance(value, DatasetImages | TopImages):
        yield f"{field}.dataset", value.dataset
    elif isinstance(value, MixedImages):
        yield from _datasets(f"{field}.parts", value.parts)
    elif isinstance(value, list):
        for i, each in enumerate(value):
            yield from _datasets(f"{field}.{i}", each)


def open_named(request: Request, catalog: Catalog) -> None:
    """Have the labels of the images that a request names, which planning reads: that may take long, so not within a
    transaction. Raises ObjectNotFound or StorageError, or ValueError if they are not what was registered."""
    for field in type(request).model_fields:
        for named in _images(getattr(request, field)):
            if (dataset := catalog.datasets.get(named.dataset)) and dataset.card.classes:
                _ = dataset.labels


def is_here(request: Request, catalog: Catalog) -> bool:
    """Whether all that a study names is in the catalog already: a name means the same for ever."""
    if not isinstance(request, Study) or (card := catalog.models.get(request.model)) is None:
        return False
    fields = {field: getattr(request, field) for field in type(request).model_fields}
    datasets = {name for field, value in fields.items() for _, name in _datasets(field, value)}
    judges = {name for name in (request.judge, card.judge) if name}
    return datasets <= catalog.datasets.keys() and judges <= catalog.models.keys()


def _images(value: Any) -> Iterator[DatasetImages]:
    """The images of data sets that a field of a request names."""
    if isinstance(value, DatasetImages):
        yield value
    elif isinstance(value, MixedImages | list):
        for each in value.parts if isinstance(value, MixedImages) else value:
            yield from _images(each)


def allowed(names: Iterable[str]) -> str:
    """Names as an error lists them."""
    listed = list(names)
    more = f", and {len(listed) - NAMED_IN_ERROR} more" if len(listed) > NAMED_IN_ERROR else ""
    return ", ".join(listed[:NAMED_IN_ERROR]) + more or "none"


def size_taken(catalog: Catalog, architecture: str | None, size: int | None) -> list[FieldError]:
    """What is wrong with an input size for an architecture, if both are known."""
    known = catalog.architectures.get(architecture or "")
    if size is None or known is None or not known.fixed_size or size == known.input_size:
        return []
    return [FieldError("input_size", f"is {size}; allowed: {known.input_size}, all that {architecture} takes")]


def unlabelled(field: str, card: DatasetCard) -> list[FieldError]:
    """What is wrong with a data set whose every image must have a label."""
    if not card.classes:
        return [FieldError(field, f"{card.name} has no labels")]
    return [FieldError(field, f"{card.name} has {card.unlabelled} images without a label")] if card.unlabelled else []


def unknown(request: Request, **known: Iterable[str]) -> list[FieldError]:
    """What is wrong with fields that name something: `known` has, by field, what they may name. None names nothing."""
    return [
        FieldError(field, f"is unknown; allowed: {allowed(names)}")
        for field, names in known.items()
        if (name := getattr(request, field)) is not None and name not in names
    ]
