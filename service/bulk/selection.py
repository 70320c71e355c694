"""Which images of a data set a request means: filters turned into indices."""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from service.catalog import Catalog, Dataset
from service.errors import FieldError, InvalidInput, field_errors
from service.kinds.planning import allowed
from service.requests import Submission
from service.schemas import DatasetImages, MixedImages, Request, listed

Indices = NDArray[np.int64]
R = TypeVar("R", bound=Submission)


def selected(dataset: Dataset, source: DatasetImages, field: str) -> Indices:
    """The indices that a source names, [N], in the order of its list or slice; those of `random` increase.

    Raises InvalidInput, naming what of `field` is wrong or selects nothing.
    """
    size = dataset.card.size
    if source.indices is not None:
        chosen = np.array(source.indices, np.int64)
        if (place := int(chosen.argmax())) >= 0 and chosen[place] >= size:
            raise InvalidInput(FieldError(f"{field}.indices.{place}", f"is {chosen[place]}; allowed: 0 to {size - 1}"))
    else:
        span = slice(source.slice.start, source.slice.stop, source.slice.step) if source.slice else slice(None)
        chosen = np.arange(size, dtype=np.int64)[span]
    if source.classes is not None:
        chosen = chosen[np.isin(np.asarray(dataset.labels)[chosen], _places(dataset, source, field))]
    if source.random is not None:
        if source.random > len(chosen):
            message = f"is {source.random:,}; allowed: at most {len(chosen):,}, what is left to draw from"
            raise InvalidInput(FieldError(f"{field}.random", message))
        drawn = np.random.default_rng(source.seed).choice(len(chosen), source.random, replace=False)
        chosen = chosen[np.sort(drawn)]
    if not len(chosen):
        raise InvalidInput(FieldError(field, f"selects no image of {dataset.card.name}, which has {size:,}"))
    return chosen


def _places(dataset: Dataset, source: DatasetImages, field: str) -> list[int]:
    known = {name: place for place, name in enumerate(dataset.card.classes)}
    errors = [
        FieldError(f"{field}.classes.{i}", f"is unknown; allowed for {dataset.card.name}: {allowed(known)}")
        for i, name in enumerate(source.classes or ())
        if name not in known
    ]
    if errors:
        raise InvalidInput(*errors)
    return [known[name] for name in source.classes or ()]


def explicit(request: R, catalog: Catalog, most: int, keep: tuple[str, ...] = ()) -> R:
    """The request with the indices in the place of every filter, where that makes at most `most` images a source.

    Fields named in `keep` may have more, and are left as they are then. Unknown data sets are left to planning.
    Raises InvalidInput.
    """
    changed: dict[str, Any] = {}
    for field in type(request).model_fields:
        value = getattr(request, field)
        new = _explicit(value, field, catalog, most, field in keep)
        if new is not value:
            changed[field] = new.model_dump() if isinstance(new, Request) else [each.model_dump() for each in new]
    if not changed:
        return request
    try:
        new = type(request).model_validate(sent := request.model_dump(exclude_unset=True) | changed)
    except ValidationError as e:
        raise InvalidInput(*field_errors(e, sent)) from e
    beside = {name: getattr(request, name) for name, field in type(request).model_fields.items() if field.exclude}
    return new.model_copy(update=beside)


def _explicit(value: Any, field: str, catalog: Catalog, most: int, more: bool) -> Any:
    if isinstance(value, MixedImages):
        parts = _explicit(value.parts, f"{field}.parts", catalog, most, more)
        return value if parts is value.parts else value.model_copy(update={"parts": parts})
    if isinstance(value, list) and value and isinstance(value[0], Request):
        new = [_explicit(each, f"{field}.{i}", catalog, most, more) for i, each in enumerate(value)]
        return new if any(a is not b for a, b in zip(new, value, strict=True)) else value
    if not isinstance(value, DatasetImages) or listed(value) or value.dataset not in catalog.datasets:
        return value
    indices = selected(catalog.datasets[value.dataset], value, field)
    if len(indices) > most:
        if more:
            return value
        raise InvalidInput(FieldError(field, f"selects {len(indices):,} images; allowed here: at most {most:,}"))
    return DatasetImages(source="dataset", dataset=value.dataset, indices=indices.tolist())
