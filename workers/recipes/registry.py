"""The recipe of every job kind: it computes the open items of a shard and saves each through the context."""

from collections.abc import Callable
from functools import partial

from workers.context import ShardContext
from workers.recipes import (
    activating,
    drawing,
    evaluation,
    features,
    interpolation,
    inversion,
    registration,
    study,
    tables,
    training,
)


def _drawn(ctx: ShardContext) -> None:
    (tables.run if ctx.work.parameters["recipe"] in tables.PAPER else drawing.run)(ctx)


RECIPES: dict[str, Callable[[ShardContext], None]] = {
    "inversion": partial(study.run, inversion.prepare),
    "radius_sweep": partial(study.run, inversion.prepare),
    "interpolation": partial(study.run, interpolation.prepare),
    "feature_visualization": partial(study.run, features.prepare),
    "feature_manipulation": partial(study.run, features.prepare),
    "training": training.run,
    "evaluation": evaluation.run,
    "model_registration": registration.model,
    "dataset_registration": registration.dataset,
    "activating_images": activating.run,
    "recipe": _drawn,
}
