"""The error answers: what each status means here, and what it looks like."""

from typing import Any

from pydantic import BaseModel, Field

from service.errors import title

MEDIA_TYPE = "application/problem+json"


class ProblemField(BaseModel):
    """One thing wrong in a request."""

    field: str = Field(description="As a dotted path from the body, or the name of a parameter or header")
    message: str = Field(description="What was sent, or what is allowed")


class Problem(BaseModel):
    """What every error answers (RFC 9457)."""

    type: str = Field(description="Which error it is, as a relative address; it does not change between versions")
    title: str = Field(description="The status in words")
    status: int
    detail: str = Field(description="What happened, for people")
    errors: list[ProblemField] = Field([], description="What is wrong, one by one, where that can be said; at most 100")


MEANINGS = {
    400: "It is no well-formed HTTP request, or its body ended early",
    401: "No key was sent, or one that opens nothing",
    403: "The key has not the scope that the operation names",
    404: "Nothing has this name, or not any more",
    405: "The address has no such method",
    409: "The state of the thing does not allow this",
    413: "The body is larger than the service takes, or than what the tenant may still have stored",
    415: "The body has another media type than those that are taken",
    416: "The range lies beyond the end; Content-Range tells the size",
    422: "A value is not allowed; errors names each field and what is",
    429: "As much waits, or was asked in a minute, as may be; try again after Retry-After",
    503: "A server that is needed cannot be reached, or too much is going on; try again after Retry-After",
}
_BODY = [{"field": "body", "message": "allowed: 20,000,000 bytes"}]
EXAMPLES: dict[int, tuple[str, str, list[dict[str, str]]]] = {
    401: ("unauthorized", "send a key: Authorization: Bearer rr_...", []),
    403: ("forbidden", "this takes a key with the scope write; this one has read", []),
    404: ("not-found", "no job job_0", []),
    409: ("conflict", "job job_0 is succeeded", []),
    413: ("too-large", "the body is over 20,000,000 bytes", _BODY),
    415: ("unsupported-media-type", "Content-Type: is text/plain; allowed: application/json",
          [{"field": "Content-Type", "message": "is text/plain; allowed: application/json"}]),
    416: ("range-not-satisfiable", "the range lies beyond the 3,172 bytes there are", []),
    422: ("invalid-input", "steps: Input should be greater than or equal to 1",
          [{"field": "steps", "message": "Input should be greater than or equal to 1"}]),
    429: ("too-many-queued", "5,000,000 items wait already; allowed: 5,000,000", []),
    503: ("unavailable", "a server that this request needs cannot be reached; try again", []),
}  # fmt: skip
RETRY_AFTER = {"description": "Seconds to wait before the next try", "schema": {"type": "integer"}}


def response(status: int, description: str | None = None) -> dict[str, Any]:
    """As an OpenAPI response object."""
    type_, detail, errors = EXAMPLES[status]
    example: dict[str, Any] = {"type": f"/problems/{type_}", "title": title(status), "status": status, "detail": detail}
    if errors:
        example["errors"] = errors
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}
    headers = {"headers": {"Retry-After": RETRY_AFTER}} if status in (429, 503) else {}
    return {"description": description or MEANINGS[status], **headers, "content": {MEDIA_TYPE: content}}


def name(status: int) -> str:
    """Of the response in the schema's components."""
    return "".join(title(status).replace("-", " ").title().split())


def shared(status: int) -> dict[str, str]:
    """A reference to what `response` answers."""
    return {"$ref": f"#/components/responses/{name(status)}"}
