"""The recipe of every job kind: it computes the open items of a shard and saves each through the context."""

from collections.abc import Callable

from workers.context import ShardContext
from workers.recipes import inversion

RECIPES: dict[str, Callable[[ShardContext], None]] = {"inversion": inversion.run}
