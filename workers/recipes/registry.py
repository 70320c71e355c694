"""The recipe of every job kind: it computes the open items of a shard and saves each through the context."""

from collections.abc import Callable
from functools import partial

from workers.context import ShardContext
from workers.recipes import (
    activating,
    ascending,
    evaluation,
    features,
    interpolation,
    inversion,
    registration,
    searching,
    study,
    training,
)


def _drawn(ctx: ShardContext) -> None:
    from workers.recipes import drawing, tables  # here: no other job draws, and matplotlib takes as long as the rest

    (tables.run if ctx.work.parameters["recipe"] in tables.PAPER else drawing.run)(ctx)


def _inverted(ctx: ShardContext) -> None:
    if any(item.target["source"] == "table" for item in ctx.work.items):
        from workers.recipes import table  # here, since no other job needs its library

        table.write(ctx)
    else:
        study.run(inversion.prepare, searching.searched, ctx)


def _visualized(ctx: ShardContext) -> None:
    regularized = ctx.work.parameters.get("regularization")
    study.run(features.prepare, ascending.ascended if regularized else searching.searched, ctx)


RECIPES: dict[str, Callable[[ShardContext], None]] = {
    "inversion": _inverted,
    "radius_sweep": partial(study.run, inversion.prepare, searching.searched),
    "interpolation": partial(study.run, interpolation.prepare, searching.searched),
    "feature_visualization": _visualized,
    "feature_manipulation": partial(study.run, features.prepare, searching.searched),
    "training": training.run,
    "evaluation": evaluation.run,
    "model_registration": registration.model,
    "dataset_registration": registration.dataset,
    "activating_images": activating.run,
    "recipe": _drawn,
}
