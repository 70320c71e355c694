"""Errors that a client sees: each class has its HTTP status, and one handler renders them all (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, NamedTuple

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from service.storage import ObjectNotFound, StorageError

log = structlog.get_logger()
MOST_ERRORS = 100  # named in one answer
LONGEST = 500  # characters of a field's name and of what is said of it: both may quote what was sent
PHRASES = {413: "Content Too Large", 416: "Range Not Satisfiable", 422: "Unprocessable Content"}  # as of RFC 9110
WHERE = {("body",), ("query",), ("path",), ("header",), ("cookie",)}


class FieldError(NamedTuple):
    """One thing wrong in a request: the field, as a dotted path, and what was allowed there."""

    field: str
    message: str


class Problem(Exception):  # noqa: N818 - the RFC's own word
    """Base of all errors with a status. `errors` names the fields at fault."""

    status = HTTPStatus.BAD_REQUEST
    type = "bad-request"
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, detail: str, *errors: FieldError) -> None:
        super().__init__(detail)
        self.detail, self.errors = detail, errors


class InvalidInput(Problem):
    """The request is well formed, but a field's value is not allowed."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    type = "invalid-input"

    def __init__(self, *errors: FieldError) -> None:
        super().__init__("; ".join(f"{e.field}: {e.message}" for e in errors), *errors)


class Unauthorized(Problem):
    """No key was sent, or one that opens nothing."""

    status = HTTPStatus.UNAUTHORIZED
    type = "unauthorized"
    headers = MappingProxyType({"WWW-Authenticate": 'Bearer realm="robustreps"'})


class Forbidden(Problem):
    """The key is not for this."""

    status = HTTPStatus.FORBIDDEN
    type = "forbidden"


class NotFound(Problem):
    status = HTTPStatus.NOT_FOUND
    type = "not-found"


class Conflict(Problem):
    """The resource's state does not allow this."""

    status = HTTPStatus.CONFLICT
    type = "conflict"


class TooLarge(Problem):
    """The body is larger than the service takes."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    type = "too-large"


class RangeNotSatisfiable(Problem):
    """The file ends before the range of bytes that was asked for."""

    status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    type = "range-not-satisfiable"

    def __init__(self, size: int) -> None:
        super().__init__(f"the file has {size:,} bytes", FieldError("Range", f"allowed: bytes=0-{max(size - 1, 0)}"))
        self.headers = {"Content-Range": f"bytes */{size}"}


class UnsupportedMediaType(Problem):
    """The body has a media type that this address does not take."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    type = "unsupported-media-type"

    def __init__(self, sent: str | None, allowed: str) -> None:
        message = f"is {shortened(sent) if sent else 'missing'}; allowed: {allowed}"
        super().__init__(f"Content-Type: {message}", FieldError("Content-Type", message))


class TooManyQueued(Problem):
    """As much waits as may; some of it should be over in `retry_after` seconds."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    type = "too-many-queued"

    def __init__(self, detail: str, retry_after: int) -> None:
        super().__init__(detail)
        self.headers = {"Retry-After": str(retry_after)}


class TooManyRequests(TooManyQueued):
    type = "too-many-requests"


class QuotaExceeded(TooLarge):
    type = "quota-exceeded"  # a tenant has as much as it may, and waiting changes nothing


class TooManyArchives(Problem):
    """This process sends as many archives as it has memory for."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "too-many-archives"
    headers = MappingProxyType({"Retry-After": "10"})


class TooManyStreams(Problem):
    """This process serves as many event streams as it may."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "too-many-streams"
    headers = MappingProxyType({"Retry-After": "5"})


class IdempotencyKeyReused(Problem):
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    type = "idempotency-key-reused"


def title(status: int) -> str:
    """A status in words, the same under every version of Python."""
    return PHRASES.get(status) or HTTPStatus(status).phrase


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def render(status: int, type_: str, detail: str, errors: tuple[FieldError, ...] = ()) -> JSONResponse:
    """A problem+json response."""
    body: dict[str, Any] = {"type": f"/problems/{type_}", "title": title(status), "status": status, "detail": detail}
    if errors:
        body["errors"] = [e._asdict() for e in errors]
    return JSONResponse(body, status, media_type="application/problem+json")


def field_errors(exc: RequestValidationError | ValidationError, sent: Any = None) -> tuple[FieldError, ...]:
    """pydantic's errors as dotted paths from the body, the query or the path; `body` is the whole of it."""
    sent = exc.body if isinstance(exc, RequestValidationError) else sent
    return tuple(FieldError(shortened(_field(e, sent)), shortened(_message(e))) for e in exc.errors()[:MOST_ERRORS])


def _message(error: Any) -> str:
    if error["type"] == "json_invalid":
        return f"is no JSON: {error['ctx']['error']}, at character {error['loc'][-1]}"
    message: str = error["msg"]
    return message.removeprefix("Value error, ")


def _field(error: Any, sent: Any) -> str:
    if error["type"] == "json_invalid":
        return "body"
    where, *path = error["loc"] if error["loc"][:1] in WHERE else ("body", *error["loc"])
    if where == "body":
        path = _untagged(path, sent)
        if error["type"].startswith("union_tag"):
            path.append(str(error["ctx"]["discriminator"]).strip("'"))
    if where == "query":  # a parameter that is given several times is one field
        del path[1:]
    return ".".join(map(str, path)) or str(where)


def _untagged(path: list[Any], sent: Any) -> list[Any]:
    """The path without the tags of unions, which pydantic names before the fields of the one that was sent."""
    fields, tag = [], _tag(sent)
    for part in path:
        if part == tag:
            tag = None
            continue
        fields.append(part)
        try:
            sent = sent[part]
        except (LookupError, TypeError):
            sent = None
        tag = _tag(sent)
    return fields


def _tag(sent: Any) -> Any:
    return sent.get("source", sent.get("kind")) if isinstance(sent, dict) else None


def _methods(request: Request) -> list[str]:
    """What all routes at this address take: the router that refuses a method names those of the first alone."""
    paths = request.app.openapi()["paths"]
    found = [methods for path, methods in paths.items() if compile_path(path)[0].match(request.url.path)]
    return sorted({method.upper() for methods in found for method in methods})


def _problem(_: Request, exc: Problem) -> JSONResponse:
    response = render(exc.status, exc.type, exc.detail, exc.errors)
    response.headers.update(exc.headers)
    return response


def _invalid(request: Request, exc: RequestValidationError) -> JSONResponse:
    sent, whole = request.headers.get("content-type"), {e["type"] for e in exc.errors() if e["loc"] == ("body",)}
    if whole and exc.body and isinstance(exc.body, bytes):  # it was not read as JSON
        return _problem(request, UnsupportedMediaType(sent, "application/json"))
    if "bytes_type" in whole:  # it was
        return _problem(request, UnsupportedMediaType(sent, "application/octet-stream, or an image's own"))
    return _problem(request, InvalidInput(*field_errors(exc)))


def _gone(_: Request, exc: ObjectNotFound) -> JSONResponse:
    log.error("a stored object is missing", key=str(exc))
    return render(404, "not-found", "the object that this row points to is not in the storage")


def _unavailable(_: Request, exc: Exception) -> JSONResponse:
    log.error("a server cannot be reached", reason=str(exc))
    response = render(503, "unavailable", "a server that this request needs cannot be reached; try again")
    response.headers["Retry-After"] = "5"
    return response


def _deep(request: Request, _: RecursionError) -> JSONResponse:
    return _problem(request, InvalidInput(FieldError("body", "is nested too deeply")))


def _bug(_: Request, __: Exception) -> JSONResponse:
    return render(500, "internal", "the service failed; its log says why")


def _http(request: Request, exc: HTTPException) -> JSONResponse:
    headers, asked = dict(exc.headers or {}), f"{request.method} {shortened(request.url.path)}"
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (methods := _methods(request)):
        headers["Allow"] = ", ".join(methods)
    if exc.status_code == HTTPStatus.BAD_REQUEST:  # FastAPI could not read the body
        return _problem(request, InvalidInput(FieldError("body", "is no JSON in UTF-8, or nested too deeply")))
    type_, detail = {
        404: ("not-found", f"nothing is at {asked}"),
        405: ("method-not-allowed", f"{asked}: allowed: {headers.get('Allow')}"),
    }.get(exc.status_code, ("http", str(exc.detail)))
    response = render(exc.status_code, type_, detail)
    response.headers.update(headers)
    return response


HANDLERS: dict[Any, Any] = {
    Problem: _problem,
    RequestValidationError: _invalid,
    RecursionError: _deep,
    HTTPException: _http,
    ObjectNotFound: _gone,
    StorageError: _unavailable,
    PoolTimeout: _unavailable,
    OperationalError: _unavailable,
    OSError: _unavailable,
    Exception: _bug,
}


def rendered(exc: Exception) -> JSONResponse:
    """What a middleware answers where a route would have raised this."""
    answer: JSONResponse = next(HANDLERS[kind] for kind in type(exc).__mro__ if kind in HANDLERS)(None, exc)
    return answer


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem+json response."""
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
