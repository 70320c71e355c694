"""A recipe's request into jobs: which networks, which parts, and what is wrong in the recipe's own words."""

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError
from sqlalchemy.orm import Session

from service.catalog import Catalog
from service.errors import FieldError, InvalidInput, field_errors
from service.evaluation import Evaluated, Evaluation
from service.kinds import dispatch
from service.kinds.planning import Plan
from service.recipes import RECIPES, Comparison, InversionFigure, Networks
from service.requests import Submission
from service.schemas import OtherTargetStart, Request, count
from service.settings import Settings
from service.studies import FeatureManipulation, FeatureVisualization, Interpolation, Inversion, RadiusSweep, Study

KINDS: Mapping[str, type[Study] | type[Evaluation]] = {
    get_args(kind.model_fields["kind"].annotation)[0]: kind
    for kind in (Inversion, RadiusSweep, Interpolation, FeatureVisualization, FeatureManipulation, Evaluation)
}

FLOATS = 3
"""Images that a figure holds for each item: target, start and result."""


class Part(NamedTuple):
    """One job of a recipe: its network, and `own`, what its request has beside the recipe's."""

    request: Networks
    network: str
    own: dict[str, Any]

    def job(self) -> Study | Evaluation:
        """Raises InvalidInput."""
        kind = KINDS[self.own["kind"]]
        shared = (Evaluated if kind is Evaluation else Study).model_fields.keys() - Submission.model_fields.keys()
        common = {name: getattr(self.request, name) for name in shared}
        try:
            return kind.model_validate(common | {"model": self.network} | self.own)
        except ValidationError as e:
            raise InvalidInput(*field_errors(e)) from e

    def field(self, path: str) -> str:
        """The recipe's field that a field of the study was made from."""
        name, _, rest = path.partition(".")
        if name == "top_images":
            return rest
        if name == "steps" and name in self.own:
            return "regularized_steps"
        value = self.own.get(name)
        if isinstance(value, list) and name == "starts":
            index, _, rest = rest.partition(".")
            value = value[int(index)]
        if name not in type(self.request).model_fields and isinstance(value, Request):
            name = next(each for each in type(self.request).model_fields if getattr(self.request, each) is value)
        return f"{name}.{rest}" if rest else name


def expand(name: str, request: Networks, catalog: Catalog) -> tuple[dict[str, str], dict[str, Part]]:
    """The networks by label, and the parts by theirs. Raises InvalidInput."""
    networks = _networks(request, catalog)
    if isinstance(request, Comparison):  # one judge for all: networks are compared, not judges
        judge = request.judge or catalog.models[request.model].judge
        request = request.model_copy(update={"judge": judge if judge in catalog.models else request.judge})
    parts = {
        label.replace("*", network): Part(request, networks[network], own)
        for label, own in RECIPES[name].expand(request).items()
        for network in (networks if label.startswith("*") else [label.split("/")[0]])
    }
    return networks, parts


def plan(parts: Mapping[str, Part], catalog: Catalog, session: Session, settings: Settings) -> dict[str, Plan]:
    """Each part's plan. Raises InvalidInput with every field of the recipe that is wrong, each once."""
    plans: dict[str, Plan] = {}
    errors: dict[str, str] = {}
    for label, part in parts.items():
        try:
            plans[label] = dispatch.plan(part.job(), catalog, session, settings)
        except InvalidInput as e:
            for error in e.errors:
                errors.setdefault(part.field(error.field), error.message)
    if errors:
        raise InvalidInput(*map(FieldError, errors.keys(), errors.values()))
    items, side = sum(len(each.items) for each in plans.values()), catalog.models[part.network].input_size
    if items > (most := settings.max_drawing_bytes // (FLOATS * 4 * 3 * side**2)):
        message = f"asks for {items} searches in all; a figure of {side} x {side} pixels is drawn from at most {most}"
        raise InvalidInput(FieldError("body", message))
    return plans


def _networks(request: Networks, catalog: Catalog) -> dict[str, str]:
    named = request.networks()
    if named["baseline"] is None and request.model in catalog.models:
        named["baseline"] = catalog.models[request.model].twin
    networks = {label: name for label, name in named.items() if name}
    errors = [
        FieldError(label, f"is unknown; allowed: {', '.join(catalog.models) or 'none'}")
        for label, name in networks.items()
        if name not in catalog.models
    ]
    if networks.get("baseline") == request.model:
        errors.append(FieldError("baseline", "is the model itself; a comparison needs another network"))
    if "baseline" not in networks and not errors:
        errors.append(FieldError("baseline", f"{request.model} has no twin on its card; name a network"))
    if not errors:
        size = catalog.models[request.model].input_size
        errors = [
            FieldError(label, f"takes {side} x {side} pixels and {request.model} {size} x {size}; allowed: the same")
            for label, name in networks.items()
            if (side := catalog.models[name].input_size) != size
        ]
    if (
        isinstance(request, InversionFigure)
        and isinstance(request.starts, OtherTargetStart)
        and count(request.images) < 2
    ):
        errors.append(FieldError("images", "is one image, which cannot start from another; name two, or starts"))
    if errors:
        raise InvalidInput(*errors)
    return networks
