"""/v1/recipes: the paper's figures and tables by name."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy.orm import Session

from service import cards, drafts, responses, submissions
from service.api.context import Client, Context, Ctx, Key, accept, opened
from service.bulk import selection
from service.drafts import Draft
from service.errors import NotFound
from service.expansion import expand, plan
from service.recipes import RECIPES, Networks

router = APIRouter(prefix="/v1/recipes", tags=["recipes"])


@router.get("")
def list_recipes() -> list[cards.RecipeCard]:
    """Every figure, and where its request is described."""
    return [
        cards.RecipeCard(name=name, title=recipe.title, request=recipe.request.__name__)
        for name, recipe in RECIPES.items()
    ]


def _route(name: str, request: type[Networks]) -> Callable[..., Response]:
    def submit_recipe(body: Networks, ctx: Ctx, client: Client, idempotency_key: Key = None) -> Response:
        return submit(name, body, ctx, idempotency_key, client)

    submit_recipe.__annotations__["body"] = request
    return submit_recipe


def submit(
    name: str, body: Networks, ctx: Context, key: str | None, client: str,
    beside: Mapping[str, Any] = drafts.NOTHING, digest: str = "",
) -> Response:  # fmt: skip
    """Plan a recipe and insert its jobs, `beside` too. Raises InvalidInput, TooManyQueued."""
    catalog = opened(ctx, body)
    asked = selection.explicit(body, catalog, ctx.settings.max_items)
    networks, parts = expand(name, asked, catalog)
    digest = digest or submissions.request_digest(body, name)
    parameters = {
        "recipe": name, "title": RECIPES[name].title, "networks": networks, "parts": list(parts),
        "request": body.model_dump(mode="json"),
    }  # fmt: skip

    def draft(session: Session) -> Draft:
        about = submissions.columns(session, body) | {"client": client} | dict(beside)
        plans = plan(parts, catalog, session, ctx.settings)
        return drafts.recipe(parameters, plans, digest, key, ctx.settings.shard_items, about)

    return accept(ctx, draft, digest, key)


for _name, _recipe in RECIPES.items():
    router.post(
        f"/{_name}", status_code=202, response_model=responses.Job, summary=_recipe.title,
        description=_recipe.request.__doc__, name=f"submit_{_name.replace('-', '_')}",
    )(_route(_name, _recipe.request))  # fmt: skip


@router.post("/{name}", include_in_schema=False)
def unknown_recipe(name: str) -> None:
    raise NotFound(f"no recipe {name}; known are {', '.join(RECIPES)}")
