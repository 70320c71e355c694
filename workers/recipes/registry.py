"""The recipe of every job kind: it computes the open items of a shard and saves each through the context."""

from collections.abc import Callable
from functools import partial

from workers.context import ShardContext
from workers.recipes import drawing, features, interpolation, inversion, study

RECIPES: dict[str, Callable[[ShardContext], None]] = {
    "inversion": partial(study.run, inversion.prepare),
    "radius_sweep": partial(study.run, inversion.prepare),
    "interpolation": partial(study.run, interpolation.prepare),
    "feature_visualization": partial(study.run, features.prepare),
    "feature_manipulation": partial(study.run, features.prepare),
    "recipe": drawing.run,
}
