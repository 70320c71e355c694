"""Schemathesis against a real server: what is generated from /openapi.json, valid and not, has the answers it says.

Eight examples of either kind for each operation here; `make fuzz-api` takes as many as there is time for, at random.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
import requests
import schemathesis
import schemathesis.openapi.checks
import schemathesis.specs.openapi.checks as made
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, CheckContext, GenerationMode, Response

from tests import compatibility
from tests.service.doors import Doors

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "8"))
FUZZ = settings(
    max_examples=EXAMPLES, derandomize=EXAMPLES == 8, database=None, deadline=None, report_multiple_bugs=True,
    suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
)  # fmt: skip


def _described(found: Any) -> Any:
    return found.ok()


def _without_keys(schema: dict[str, Any]) -> dict[str, Any]:
    """For these doors ask for none: what does has tests of its own."""
    for path in schema["paths"].values():
        for operation in path.values():
            operation.pop("security", None)
    return schema


DESCRIBED = schemathesis.openapi.from_dict(_without_keys(compatibility.present()))
OPERATIONS = {found.definition.raw["operationId"]: found for found in map(_described, DESCRIBED.get_all_operations())}
KINDS = {"figure-3", "figure-4", "figure-6", "figure-7", "figure-8", "figure-10", "figure-11", "figure-12", "table-4"}
"""Recipes that take different requests; the others take one of these."""
LIKE = {f"submit_{name.replace('-', '_')}" for name in KINDS} | {"submit_job"}
CHOSEN = [name for name in OPERATIONS if not name.startswith("submit_") or name in LIKE]
TAKING_ANY = {"upload_checkpoint", "upload_manifest"}
"""Operations for which nothing is invalid by their schema: any bytes."""
BAD = [n for n in CHOSEN if n not in TAKING_ANY and OPERATIONS[n].definition.raw.keys() & {"parameters", "requestBody"}]
NETWORKS, SAMPLE = ("cifar10-robust", "cifar10-standard", "cifar10-judge"), "cifar10-sample"
NAMED = {"/v1/models/": {"name": NETWORKS[0]}, "/v1/datasets/": {"name": SAMPLE}}
CHECKS: list[Callable[..., Any]] = [
    schemathesis.checks.not_a_server_error, made.status_code_conformance, made.content_type_conformance,
    made.response_headers_conformance, made.response_schema_conformance, made.negative_data_rejection,
    made.missing_required_header, made.unsupported_method, made.allow_header_conformance,
]  # fmt: skip


def named(_: CheckContext, response: Response, __: Case[Any]) -> None:
    """Refusals name each field, and say what is allowed."""
    if 400 <= response.status_code < 500:
        problem = response.json()
        assert problem["status"] == response.status_code
        if response.status_code in (413, 415, 422) and problem["type"] != "/problems/idempotency-key-reused":
            assert problem["errors"]
            assert all(error["field"] and error["message"] for error in problem["errors"])


def known(value: Any, doors: Doors, name: str = "") -> Any:
    """The same request about things that are there."""
    if isinstance(value, dict):
        return {key: known(each, doors, key) for key, each in value.items()}
    if isinstance(value, list):
        return [known(each, doors, name) for each in value[:3]]
    if name == "indices" and isinstance(value, int):
        return value % 400
    if name in ("model", "baseline", "other", "judge", "twin") and isinstance(value, str):
        return NETWORKS[len(value) % 3]
    return (
        {"dataset": SAMPLE, "validation": SAMPLE, "images": doors.known["image_id"], "classes": "cat"}.get(name, value)
        if isinstance(value, str)
        else value
    )


def send(case: Case[Any], doors: Doors, session: requests.Session) -> None:
    before = doors.counts()
    response = case.call(base_url=doors.url, session=session)
    if response.status_code == 400 and response.content == b"Invalid HTTP request received.":
        return  # an address beyond 64 KiB: the server reads no further, and the service never sees it
    plain = case.method == "GET" and case.meta and case.meta.generation.mode is GenerationMode.POSITIVE
    case.validate_response(
        response, CHECKS, additional_checks=[named, *([made.positive_data_acceptance] if plain else [])]
    )
    if response.status_code >= 400:
        assert doors.counts() == before, "a refused request left something behind"


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOSEN)
def test_valid_requests_are_answered_as_described(doors: Doors, name: str) -> None:
    jobs = [doors.cancelled] if name == "delete_job" else [doors.ended, doors.queued, doors.cancelled]
    if name == "stream_events":  # whose answer is whole only with the job's end
        jobs.remove(doors.queued)
    valid = OPERATIONS[name].as_strategy(generation_mode=GenerationMode.POSITIVE)
    with requests.Session() as session:

        @FUZZ
        @given(case=valid, there=st.booleans(), job=st.sampled_from(jobs))
        def answered(case: Case[Any], there: bool, job: str) -> None:
            for made_up in ("cursor", "items"):  # only by luck something that is there
                case.query.pop(made_up, None)
            if there:
                real = {"job_id": job, "index": 0, **doors.known, **NAMED.get(case.path.split("{")[0], {})}
                if case.path.startswith("/v1/uploads"):
                    real["upload_id"] = doors.known["pending"]
                elif "{index}" in case.path and "jobs" in case.path:
                    real["name"] = "result.png"
                case.path_parameters |= {key: real.get(key, value) for key, value in case.path_parameters.items()}
                if isinstance(case.body, dict | list):
                    case.body = known(case.body, doors)
            send(case, doors, session)

        answered()


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_invalid_requests_are_refused_as_described(doors: Doors, name: str) -> None:
    with requests.Session() as session:

        @FUZZ
        @given(case=OPERATIONS[name].as_strategy(generation_mode=GenerationMode.NEGATIVE))
        def refused(case: Case[Any]) -> None:
            send(case, doors, session)

        refused()
