"""What all studies by PGD share in planning: presets, judges, bounds, and where their pictures come from."""

import math
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import images
from service.catalog import Catalog, label_of
from service.kinds.planning import ItemPlan, LayerPlanner, Plan, Source
from service.models import Image
from service.reuse import Digests
from service.schemas import DatasetImages, GrayStart, MixedImages, NoiseStart, PatternImages, UploadedImages
from service.settings import Settings
from service.studies import FeatureVisualization, Study, StudyParameters

SMALL, COARSE = 64, 0.5
FRAME_BYTES = 8_000_000


class Planner(LayerPlanner):
    """A study on its way to a plan."""

    def __init__(self, request: Study, catalog: Catalog, session: Session, settings: Settings) -> None:
        super().__init__(request, catalog, session, settings)
        self.request = request

    def resolve(self) -> dict[str, Any]:
        """The preset's values, with the request's in their place."""
        preset = self.request.PRESETS[self.request.preset]
        given = {name: getattr(self.request, name) for name in preset}
        chosen = {name: preset[name] if value is None else value for name, value in given.items()}
        if not self.model.identity_relu:
            if self.request.identity_relu:
                self.refuse("identity_relu", f"{self.model.name} ends in no ReLU that is known; allowed: false")
            chosen["identity_relu"] = False
        return chosen

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
        digests = Digests(parameters)
        items = [
            item._replace(digest=digests.of(i, item.target, item.start, item.settings)) for i, item in enumerate(items)
        ]
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
        if step >= COARSE and side <= SMALL and p.schedule == "constant" and not p.regularization:
            warnings.append(
                f"step_size {step:g} is coarse for {side} x {side} pixels and leaves visible noise;"
                " the preset cifar takes 0.1"
            )
        if not self.model.identity_relu:
            warnings.append(f"{self.model.name} ends in no ReLU that is known: gradients are the true ones")
        if p.preset in ("cifar", "fast"):
            warnings.append(f"the preset {p.preset} is not the paper's: its steps are scaled to 32 x 32 pixels")
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
            resized = self.resized(f"{field}.images.{i}", row.width, row.height, exact)
            entries.append({"source": "image", "image": image_id, "resized": resized, "label": None})
        return entries

    def _from_dataset(self, field: str, source: DatasetImages) -> list[Source]:
        dataset = self.catalog.datasets[source.dataset]
        size = dataset.card.size
        resized = self.of_dataset(f"{field}.dataset", dataset.card)
        entries = []
        for i, index in enumerate(source.indices or ()):
            if index >= size:
                self.refuse(f"{field}.indices.{i}", f"is {index}; allowed: 0 to {size - 1}")
                continue
            label = label_of(dataset, index)
            entry = {"source": "dataset", "dataset": source.dataset, "index": index, "resized": resized, "label": label}
            entries.append(entry)
        return entries

    def visible(self, request: FeatureVisualization) -> None:
        """The data set of `top_images` is large enough, and its images are of a size that the model can take."""
        if (top := request.top_images) is None:
            return
        card = self.catalog.datasets[top.dataset].card
        self.of_dataset("top_images.dataset", card)
        if 2 * top.k > card.size:
            self.refuse("top_images.k", f"is {top.k}; allowed: at most {card.size // 2}, half of the data set")
