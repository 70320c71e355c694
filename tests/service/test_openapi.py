"""/openapi.json: complete, true to the API, and compatible with what clients were written for."""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import jsonschema_rs
import pytest
from fastapi.testclient import TestClient

from service.reference.schema import operations
from tests import compatibility

SCHEMA = compatibility.present()
OPERATIONS = {operation["operationId"]: (path, method, operation) for path, method, operation in operations(SCHEMA)}


def test_clients_of_the_stored_schema_can_use_the_present_one() -> None:
    stored = json.loads(compatibility.STORED.read_text())
    assert compatibility.breaks(stored, SCHEMA) == [], "old clients would break"
    assert stored == compatibility.bare(SCHEMA), (
        "changed compatibly: python -m tests.compatibility --accept, and commit the file"
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_described_wholly(name: str) -> None:
    path, _, operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["description"]
    assert [tag["name"] for tag in SCHEMA["tags"] if tag["description"] and tag["name"] in operation["tags"]]
    assert all(p.get("description") or p["in"] == "path" or p["schema"] for p in operation.get("parameters", ()))
    assert operation["responses"].keys() & {"200", "201", "202", "204"}
    if path.startswith("/v1/"):
        assert "503" in operation["responses"]
    assert ("422" in operation["responses"]) == bool(operation.keys() & {"parameters", "requestBody"})
    for content in operation.get("requestBody", {}).get("content", {}).values():
        assert "413" in operation["responses"]
        assert content.get("examples") or content["schema"].get("format") == "binary" or name == "upload_image"


def test_operations_have_names_of_their_own() -> None:
    assert len(OPERATIONS) == sum(1 for _ in operations(SCHEMA))
    assert all(name.isidentifier() for name in OPERATIONS)


def test_every_error_is_a_problem() -> None:
    answers = [
        a for _, _, o in operations(SCHEMA) for s, a in o["responses"].items() if s >= "4" and o["tags"] != ["health"]
    ]
    shared = SCHEMA["components"]["responses"]
    for answer in answers:
        answer = shared[answer["$ref"].rsplit("/", 1)[1]] if "$ref" in answer else answer
        assert answer["content"].keys() == {"application/problem+json"}
        assert answer["content"]["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}


def examples() -> Iterator[tuple[str, Any, Any]]:
    """Where each stands, its schema, and it."""
    for name, (_, _, operation) in OPERATIONS.items():
        for media in operation.get("requestBody", {}).get("content", {}).values():
            for case, example in media.get("examples", {}).items():
                yield f"{name} {case}", media["schema"], example["value"]
        for status, answer in operation["responses"].items():
            for media in answer.get("content", {}).values():
                if "example" in media:
                    yield f"{name} {status}", media["schema"], media["example"]
    for name, answer in SCHEMA["components"]["responses"].items():
        for media in answer["content"].values():
            yield name, media["schema"], media["example"]


@pytest.mark.parametrize(
    ("where", "schema", "example"), list(examples()), ids=lambda x: x if isinstance(x, str) else ""
)
def test_an_example_is_valid_by_its_schema(where: str, schema: Any, example: Any) -> None:  # noqa: ARG001
    jsonschema_rs.validator_for({**schema, "components": SCHEMA["components"]}).validate(example)


SUBMITTED = [
    (path, name, example["value"])
    for operation, (path, _, described) in OPERATIONS.items()
    if operation.startswith(("submit_", "register_"))
    for name, example in described["requestBody"]["content"]["application/json"]["examples"].items()
]


@pytest.mark.parametrize(("path", "name", "body"), SUBMITTED, ids=[name for _, name, _ in SUBMITTED])
def test_an_example_of_a_request_is_accepted(api: TestClient, path: str, name: str, body: Any) -> None:
    answer = api.post(path, json=body)
    assert answer.status_code == 202, (name, answer.text)


def test_there_is_an_example_of_each_kind_of_job() -> None:
    body = OPERATIONS["submit_job"][2]["requestBody"]["content"]["application/json"]
    assert {example["value"]["kind"] for example in body["examples"].values()} == set(
        body["schema"]["discriminator"]["mapping"]
    )


def test_answers_in_json_have_examples() -> None:
    without = [
        f"{name} {status}"
        for name, (_, _, operation) in OPERATIONS.items()
        for status, answer in operation["responses"].items()
        if status < "3" and (media := answer.get("content", {}).get("application/json"))
        if "example" not in media and media["schema"].get("format") != "binary"
    ]
    assert without == [], "python -m tests.recording writes them anew"


Change = Callable[[dict[str, Any]], Any]
ROUTE = "/v1/jobs/{job_id}"


def _of(schema: dict[str, Any], name: str) -> Any:
    return schema["components"]["schemas"][name]


def _field(schema: dict[str, Any], name: str, field: str) -> Any:
    return _of(schema, name)["properties"][field]


def _submit(schema: dict[str, Any]) -> Any:
    return schema["paths"]["/v1/jobs"]["post"]


def _without_items(schema: dict[str, Any]) -> None:
    job = _of(schema, "Job")
    del job["properties"]["items"]
    job["required"].remove("items")


BREAKING: dict[str, tuple[Change, str]] = {
    "a path removed": (lambda s: s["paths"].pop(ROUTE), "GET /v1/jobs/{job_id}: removed"),
    "a method removed": (lambda s: s["paths"]["/v1/jobs"].pop("post"), "POST /v1/jobs: removed"),
    "an operation renamed": (lambda s: _submit(s).update(operationId="post"), "operationId was submit_job"),
    "a parameter removed": (lambda s: _submit(s)["parameters"].clear(), "parameter idempotency-key in header: removed"),
    "a parameter required": (lambda s: _submit(s)["parameters"][0].update(required=True), "now required"),
    "a parameter narrowed": (lambda s: _submit(s)["parameters"][0]["schema"].update(maxLength=9), "maxLength is 9"),
    "a status changed": (lambda s: _submit(s)["responses"].pop("202"), "answer 202: removed"),
    "a header removed": (lambda s: _submit(s)["responses"]["202"]["headers"].pop("Location"), "header Location"),
    "a media type removed": (lambda s: _submit(s)["requestBody"]["content"].clear(), "/json is taken no more"),
    "a kind removed": (lambda s: _submit(s)["requestBody"]["content"]["application/json"]["schema"]["oneOf"].pop(0),
                       "body"),
    "a field of requests removed": (lambda s: _of(s, "Inversion")["properties"].pop("loss"), ".loss: removed"),
    "a field of requests required": (lambda s: _of(s, "Inversion")["required"].append("loss"), ".loss: now required"),
    "a bound tightened": (lambda s: _field(s, "NoiseStart", "std").update(maximum=0.5), "maximum is 0.5, was 1"),
    "a value removed": (lambda s: _field(s, "Inversion", "priority")["enum"].remove("low"), 'no longer takes "low"'),
    "a pattern changed": (lambda s: _field(s, "DatasetImages", "dataset").update(pattern="x"), "pattern is x"),
    "null refused": (lambda s: _field(s, "Inversion", "deadline")["anyOf"].pop(), '"null" is not taken'),
    "a field of answers removed": (_without_items, ".items: removed"),
    "an answer's type changed": (lambda s: _field(s, "ItemCounts", "total").update(type="string"), "is not taken"),
    "an answer may be null": (lambda s: _of(s, "ItemCounts")["properties"].update(
        total={"anyOf": [{"type": "integer"}, {"type": "null"}]}), '"null" is not taken'),
}  # fmt: skip


@pytest.mark.parametrize("case", BREAKING)
def test_a_change_that_breaks_clients_is_found(case: str) -> None:
    change, said = BREAKING[case]
    changed = deepcopy(SCHEMA)
    change(changed)
    found = compatibility.breaks(SCHEMA, changed)
    assert any(said in each for each in found), found


ADDING: dict[str, Change] = {
    "a path": lambda s: s["paths"].update({"/v1/new": deepcopy(s["paths"][ROUTE])}),
    "an optional parameter": lambda s: _submit(s)["parameters"].append(
        {"name": "x", "in": "query", "schema": {"type": "string"}}),
    "a field of requests": lambda s: _of(s, "Inversion")["properties"].update(x={"type": "string"}),
    "a looser bound": lambda s: _field(s, "NoiseStart", "std").update(maximum=2.0),
    "no bound": lambda s: _field(s, "NoiseStart", "std").pop("maximum"),
    "a value of requests": lambda s: _field(s, "Inversion", "priority")["enum"].append("urgent"),
    "a field of answers": lambda s: _of(s, "Job")["properties"].update(x={"type": "string"}),
    "an error": lambda s: _submit(s)["responses"].update({"418": {"description": ""}}),
    "a description": lambda s: _submit(s).update(description="anew"),
    "an answer is never null": lambda s: _field(s, "Progress", "rate").update(anyOf=[{"type": "number"}]),
}  # fmt: skip


@pytest.mark.parametrize("case", ADDING)
def test_an_addition_breaks_nobody(case: str) -> None:
    changed = deepcopy(SCHEMA)
    ADDING[case](changed)
    assert changed != SCHEMA
    assert compatibility.breaks(SCHEMA, changed) == []
