"""/openapi.json: what FastAPI derives from the routes, and what it cannot know of them.

Names of operations are those of the functions, errors are problem+json, and examples are requests that are accepted and
answers that were given (`python -m tests.recording`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute

from service.access.gate import SESSION
from service.access.principal import needed
from service.reference import problems
from service.reference.requests import REQUESTS

Operation = dict[str, Any]
ANSWERS = Path(__file__).with_name("answers.json")
TITLE = "robustreps"
DESCRIPTION = """\
Inverts, interpolates, visualises and edits representations of robust networks, as queued jobs.

A job is posted and answered 202 with its address. Poll that address, with `If-None-Match` at little cost, or follow its
events, until its state is one of `succeeded`, `partially_succeeded`, `failed`, `cancelled`, `expired`; then read its
items and artifacts. Lists are paged: pass `next_cursor` as `cursor`, until it is null. Every error is a `Problem`, as
`application/problem+json`. Whatever is unknown in a request is refused; an answer may gain fields.
"""
TAGS = {
    "jobs": "Submit, follow, change and end jobs, and read what they made.",
    "recipes": "The paper's figures and tables by name: each is one job, with a part for each network and study.",
    "images": "Upload the images, and tensors, that jobs name.",
    "uploads": "Put images, tensors, checkpoints and manifests into the storage by presigned addresses.",
    "catalog": "The networks, data sets and architectures that jobs can name, and how to register more.",
    "webhooks": "Addresses that are told what becomes of jobs, signed by the Standard Webhooks specification.",
    "workers": "The processes that compute.",
    "session": "Sign a browser in and out, and see whose key it is.",
    "health": "For whoever runs the service.",
}
SCHEME = "key"
BEARER = {"type": "http", "scheme": "bearer", "description": "A key with the scope that the operation names: `read` or "
          "`write`. Nothing is asked for where the service is set up without keys."}  # fmt: skip
SUCCEEDED = {200: "The answer", 201: "It is stored", 202: "Accepted", 204: "Done; there is nothing to say",
             206: "The range that was asked for"}  # fmt: skip
HEADERS = {
    "ETag": "Changes when the answer does; send it back as If-None-Match",
    "Location": "The address of what was made",
    "Retry-After": "Seconds after which it is worth asking again, while the job goes on",
    "Content-Range": "Which bytes these are, and of how many",
    "Content-Disposition": "A name for the file",
}
PARAMETERS = {
    "job_id": "As answered when the job was submitted",
    "index": "Counted from 0",
    "Idempotency-Key": "A name of your own for this request: sent again with the same body, it answers the job that "
    "was made the first time, and makes no other",
    "If-None-Match": "The ETag of an answer that you have: 304 if it still holds",
    "Range": "One range of bytes, such as bytes=0-1023",
    "If-Range": "The ETag that the range is meant for; if it has changed, all of it is answered",
}
CONFLICTS = {
    "cancel_job", "pause_job", "resume_job", "retry_job", "patch_job", "delete_job", "clone_job", "get_request",
    "put_content", "complete_upload", "create_webhook", "rotate_webhook", "test_webhook", "retry_delivery",
}  # fmt: skip
"""Operations that the state of what they are about may not allow."""
_OCTETS, _TAR = "application/octet-stream", "application/x-tar"
MEDIA = {
    "get_artifact": ("image/png", "image/gif", "application/json", "application/pdf", "text/csv", _OCTETS,
                     "application/vnd.apache.parquet"),
    "get_result_shard": (_TAR,),
    "get_archive": ("application/zip", _TAR),
    "get_table": ("text/csv", "application/x-ndjson"),
    "get_item_checkpoint": (_OCTETS,),
    "get_weights": (_OCTETS,),
    "get_image": ("image/png", "image/jpeg", "image/webp", "application/x-npy"),
    "get_dataset_image": ("image/png",),
    "get_item_preview": ("image/png",),
}  # fmt: skip
"""What answers that are files may be."""
BINARY = {"type": "string", "format": "binary"}


def operation_id(route: APIRoute) -> str:
    """The name of the route's function: what generated clients call."""
    return route.name


def operations(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, Operation]]:
    """Path, method and description of each operation."""
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def describe(routes: Sequence[BaseRoute], version: str) -> dict[str, Any]:
    """The whole document."""
    schema = get_openapi(
        title=TITLE, version=version, description=DESCRIPTION, routes=routes,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )  # fmt: skip
    components = schema["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    _, defined = models_json_schema([(problems.Problem, "validation")], ref_template="#/components/schemas/{model}")
    components |= defined["$defs"]
    schema["components"]["responses"] = {problems.name(n): problems.response(n) for n in problems.EXAMPLES}
    schema["components"]["securitySchemes"] = {SCHEME: BEARER}
    for path, method, operation in operations(schema):
        _complete(path, operation)
        if path.startswith("/v1/"):
            _secured(path, method, operation)
    used = {tag for _, _, operation in operations(schema) for tag in operation["tags"]}
    schema["tags"] = [{"name": name, "description": text} for name, text in TAGS.items() if name in used]
    return schema


def _complete(path: str, operation: Operation) -> None:
    name = operation["operationId"]
    if operation["summary"].istitle():  # made of the function's name
        operation["summary"] = name.replace("_", " ").capitalize()
    parameters = operation.get("parameters", [])
    for parameter in parameters:
        _plain(parameter)
    sent = {parameter["name"] for parameter in parameters}
    _files(operation, sent)
    if "304" in operation["responses"] and "If-None-Match" not in sent:
        known = {"name": "If-None-Match", "in": "header", "required": False, "schema": {"type": "string"}}
        operation.setdefault("parameters", []).append(known | {"description": PARAMETERS["If-None-Match"]})
    _answers(path, operation, sent)
    _examples(operation)


def _secured(path: str, method: str, operation: Operation) -> None:
    """The scope that it takes, and what is answered without."""
    scopes = [] if path == SESSION else [needed(method.upper()).value]
    operation["security"] = [] if (path, method) == (SESSION, "post") else [{SCHEME: scopes}]
    answers = operation["responses"] | {str(status): problems.shared(status) for status in (401, 403)}
    operation["responses"] = dict(sorted(answers.items()))


def _plain(parameter: dict[str, Any]) -> None:
    """A parameter as it can be sent: null is to leave it out, and headers are written as everywhere."""
    if parameter["in"] == "header" and parameter["name"].islower():
        parameter["name"] = parameter["name"].title()
    schema = parameter["schema"]
    schema.pop("title", None)
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1 and len(schema["anyOf"]) == 2:
        del schema["anyOf"]
        schema |= kinds[0]
    if text := parameter.get("description") or schema.get("description") or PARAMETERS.get(parameter["name"]):
        parameter["description"] = text
    schema.pop("description", None)


def _files(operation: Operation, sent: set[str]) -> None:
    """The answers of an operation that sends a file."""
    answers = operation["responses"]
    content = {media: {"schema": BINARY} for media in MEDIA.get(operation["operationId"], ())}
    if content:
        answers["200"]["content"] = content
        answers.pop("304", None)
    if "Range" in sent:
        answers["206"] = {"description": SUCCEEDED[206], "content": content}
    if "redirect" in sent:
        answers["307"] = {"description": "Where the file can be had from the storage itself, for a while"}
    if "If-None-Match" in sent:
        answers["304"] = {"description": "It has not changed"}


def _answers(path: str, operation: Operation, sent: set[str]) -> None:
    """Descriptions, headers, media types and errors."""
    answers, body = operation["responses"], operation.get("requestBody", {}).get("content", {})
    answers.pop("422", None)
    for status, answer in answers.items():
        if answer["description"] == "Successful Response":
            answer["description"] = SUCCEEDED[int(status)]
    errors = {
        404: "{" in path,
        409: operation["operationId"] in CONFLICTS,
        413: bool(body),
        415: "application/json" in body,
        416: "Range" in sent,
        422: bool(sent or body),
        429: path.startswith("/v1/"),
        503: path.startswith("/v1/"),
    }
    for status, answer in answers.items():
        if int(status) >= 400 and "content" not in answer:
            answer |= problems.response(int(status), answer["description"])
        for kind, media in answer.get("content", {}).items():
            media["schema"] = media.get("schema", BINARY) if kind != "text/event-stream" else {}
            media["schema"].pop("title", None)
        if headers := _headers(path, int(status), operation, sent):
            answer["headers"] = headers | answer.get("headers", {})
    answers |= {str(n): problems.shared(n) for n, holds in errors.items() if holds and str(n) not in answers}
    operation["responses"] = dict(sorted(answers.items()))


def _headers(path: str, status: int, operation: Operation, sent: set[str]) -> dict[str, Any]:
    names = []
    if "304" in operation["responses"] and status in (200, 206, 304):
        names.append("ETag")
    if status in (201, 307) or (status == 202 and "Idempotency-Key" in sent):
        names.append("Location")
    if (status == 202 and "Idempotency-Key" in sent) or (status == 200 and path == "/v1/jobs/{job_id}"):
        names.append("Retry-After")
    if status in (206, 416):
        names.append("Content-Range")
    return {name: {"description": HEADERS[name], "schema": {"type": "string"}} for name in names}


def _examples(operation: Operation) -> None:
    named = REQUESTS.get(operation["operationId"], {})
    if body := operation.get("requestBody", {}).get("content", {}).get("application/json"):
        body["examples"] = {name: {"summary": text, "value": value} for name, (text, value) in named.items()}
    recorded = _recorded().get(operation["operationId"], {})
    for parameter in operation.get("parameters", ()):
        if (value := recorded.get("parameters", {}).get(parameter["name"])) is not None:
            parameter["example"] = value
    for status, answer in operation["responses"].items():
        if media := answer.get("content", {}).get("application/json"):
            told = recorded.get("answers", {}).get(status, _like(media["schema"].get("$ref"), operation["tags"]))
            media |= {} if told is None else {"example": told}


def _like(form: str | None, tags: Sequence[str]) -> Any:
    """What another operation answered in this form, and if there is one, of the same tag."""
    told = [each for each in _recorded().values() if form and form in each["forms"]]
    found = sorted(told, key=lambda each: bool(each["tags"] != tags))
    return next((each["answers"][each["forms"][form]] for each in found), None)


@cache
def _recorded() -> dict[str, Any]:
    """By operation: parameters that were sent, and what was answered, by status."""
    found: dict[str, Any] = json.loads(ANSWERS.read_text()) if ANSWERS.exists() else {}
    return found
