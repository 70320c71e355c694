"""Jobs inserted alone, without the API: a plan becomes rows, in one transaction."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from service import drafts
from service.drafts import NOTHING, Draft
from service.kinds.planning import Plan


def submit(
    session: Session, plan: Plan, digest: str, key: str | None, shard_items: int, beside: Mapping[str, Any] = NOTHING
) -> tuple[str, list[str]]:
    """Insert a planned job alone; answers its id and those of the shards to enqueue after the commit."""
    return _alone(session, drafts.planned(plan, digest, key, shard_items, beside))


def submit_recipe(
    session: Session, parameters: Mapping[str, Any], plans: Mapping[str, Plan], digest: str, key: str | None,
    shard_items: int, beside: Mapping[str, Any] = NOTHING,
) -> tuple[str, list[str]]:  # fmt: skip
    """Insert a recipe and its studies; answers as `submit` does."""
    return _alone(session, drafts.recipe(parameters, plans, digest, key, shard_items, beside))


def _alone(session: Session, draft: Draft) -> tuple[str, list[str]]:
    drafts.insert(session, [draft])
    return draft.job["id"], draft.shard_ids
