"""/v1/recipes: the paper's figures and tables by name."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from service import cards, drafts, estimates, limits, responses, submissions
from service.api.context import Client, Context, Ctx, Key, insert, opened, told_of
from service.bulk import selection
from service.catalog import Catalog
from service.drafts import Draft
from service.errors import NotFound
from service.expansion import Part, expand, plan
from service.recipes import RECIPES, Networks
from service.requests import PRIORITIES

router = APIRouter(prefix="/v1/recipes", tags=["recipes"])


@router.get("")
def list_recipes() -> list[cards.RecipeCard]:
    """Every figure, and where its request is described."""
    return [
        cards.RecipeCard(name=name, title=recipe.title, request=recipe.request.__name__)
        for name, recipe in RECIPES.items()
    ]


def _route(name: str, request: type[Networks]) -> Callable[..., Response]:
    def submit_recipe(
        body: Networks, ctx: Ctx, client: Client, idempotency_key: Key = None,
        dry_run: Annotated[bool, Query(description="Only answer what the request would become (200)")] = False,
    ) -> Response:  # fmt: skip
        if dry_run:
            return JSONResponse(preview(name, body, ctx, client).model_dump(mode="json"))
        return submit(name, body, ctx, idempotency_key, client)

    submit_recipe.__annotations__["body"] = request
    return submit_recipe


def _expanded(name: str, body: Networks, ctx: Context) -> tuple[dict[str, Any], dict[str, Part], Catalog]:
    """The parameters of a recipe's job, its parts, and what they name. Raises InvalidInput."""
    catalog = opened(ctx, body)
    asked = selection.explicit(body, catalog, ctx.settings.max_items)
    networks, parts = expand(name, asked, catalog)
    parameters = {
        "recipe": name, "title": RECIPES[name].title, "networks": networks, "parts": list(parts),
        "request": body.model_dump(mode="json"),
    }  # fmt: skip
    return parameters, parts, catalog


def preview(name: str, body: Networks, ctx: Context, client: str) -> responses.Preview:
    """What a recipe would become. Raises what submitting it would."""
    parameters, parts, catalog = _expanded(name, body, ctx)
    with ctx.db.reading() as session:
        plans = plan(parts, catalog, session, ctx.settings)
        submissions.columns(session, body)
        limits.check(session, ctx.settings, client, drafts.size(*plans.values()) + 1)
        shard_items, priority = ctx.settings.shard_items, PRIORITIES[body.priority]
        of = {k: estimates.preview(session, p, len(p.items), shard_items, priority) for k, p in plans.items()}
    return estimates.together(drafts.RECIPE, parameters, of)


def submit(
    name: str, body: Networks, ctx: Context, key: str | None, client: str,
    beside: Mapping[str, Any] = drafts.NOTHING, digest: str = "",
) -> Response:  # fmt: skip
    """Plan a recipe and insert its jobs, `beside` too. Raises InvalidInput, TooManyQueued."""
    parameters, parts, catalog = _expanded(name, body, ctx)
    digest, key = digest or submissions.request_digest(body, name), submissions.keyed(ctx.tenant, key)

    def draft(session: Session) -> Draft:
        about = told_of(ctx, session, body, client, beside)
        plans = plan(parts, catalog, session, ctx.settings)
        return drafts.recipe(parameters, plans, digest, key, ctx.settings.shard_items, about)

    return insert(ctx, draft, digest, key).answer(ctx)


for _name, _recipe in RECIPES.items():
    router.post(
        f"/{_name}", status_code=202, response_model=responses.Job, summary=_recipe.title,
        responses={200: {"model": responses.Preview}}, description=_recipe.request.__doc__,
        name=f"submit_{_name.replace('-', '_')}",
    )(_route(_name, _recipe.request))  # fmt: skip


@router.post("/{name}", include_in_schema=False)
def unknown_recipe(name: str) -> None:
    raise NotFound(f"no recipe {name}; known are {', '.join(RECIPES)}")
