"""Query parameters that no route has are refused: one that is misspelt must not mean that it was not sent."""

from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from service.errors import MOST_ERRORS, FieldError, InvalidInput


def _taken(by: Dependant) -> Iterator[str]:
    yield from (field.alias for field in by.query_params)
    for other in by.dependencies:
        yield from _taken(other)


async def known_query(request: Request) -> None:
    """Raises InvalidInput for each parameter that the route does not have."""
    route = request.scope.get("route")
    if not request.query_params or not isinstance(route, APIRoute) or not route.path.startswith("/v1/"):
        return
    names = set(_taken(route.dependant))
    listed = ", ".join(sorted(names)) or "none"
    unknown = [name for name in dict.fromkeys(request.query_params.keys()) if name not in names]
    if unknown:
        raise InvalidInput(*(
            FieldError(name[:100] or "query", f"is unknown; allowed in the query: {listed}")
            for name in unknown[:MOST_ERRORS]
        ))  # fmt: skip
