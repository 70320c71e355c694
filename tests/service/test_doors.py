"""What no schema describes, at every door: bytes, headers and bodies as only broken or hostile clients send them.

Each is refused, names what was wrong, and leaves nothing behind.
"""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from service.cursors import encode_cursor
from tests.fixtures import inversion
from tests.service.doors import Doors

FUZZ = settings(max_examples=25, derandomize=True, database=None, deadline=None, phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck))  # fmt: skip
JSON = {"Content-Type": "application/json"}
BYTES = {"Content-Type": "application/octet-stream"}
TAKING_JSON = ("/v1/jobs", "/v1/models", "/v1/datasets", "/v1/recipes/figure-3", "/v1/uploads", "/v1/webhooks")
TAKING_BYTES = ("/v1/images", "/v1/checkpoints", "/v1/manifests")


@contextmanager
def unchanged(doors: Doors) -> Iterator[None]:
    before = doors.counts()
    yield
    assert doors.counts() == before


def refused(answer: Any, *statuses: int) -> list[str]:
    """The fields at fault, of an answer that says what is wrong with each."""
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["detail"]
    assert len(answer.content) < 100_000
    assert all(error["field"] and error["message"] for error in problem.get("errors", []))
    return [error["field"] for error in problem.get("errors", [])]


def nested(depth: int, inside: str = "") -> str:
    return "[" * depth + inside + "]" * depth


def sent(**changes: Any) -> bytes:
    return json.dumps(inversion(**changes)).encode()


BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "half an object": b'{"kind": "inversion",',
    "two objects": b"{}{}",
    "no JSON": b"kind=inversion",
    "bytes that are no UTF-8": b'{"kind": "\xff\xfe"}',
    "nested without end": b"[" * 200_000,
    "nested deeply, and closed": nested(50_000).encode(),
    "nested objects": (b'{"a":' * 50_000) + b"1" + b"}" * 50_000,
    "a number of 5,000 digits": sent().replace(b"20", b"9" * 5000),
    "a list": b"[]",
    "a number": b"7",
    "a string of surrogates": b'"\\ud800\\udfff\\ud800"',
}


@pytest.mark.parametrize("path", TAKING_JSON)
@pytest.mark.parametrize("case", BROKEN)
def test_bodies_that_cannot_be_read_are_refused_as_a_whole(doors: Doors, case: str, path: str) -> None:
    with unchanged(doors):
        assert refused(doors.http.post(path, content=BROKEN[case], headers=JSON), 422) == ["body"]


@pytest.mark.parametrize("case", [case for case in BROKEN if BROKEN[case]])
def test_changes_and_clones_that_cannot_be_read_are_refused(doors: Doors, case: str) -> None:
    job = f"/v1/jobs/{doors.ended}"
    with unchanged(doors):
        assert refused(doors.http.patch(job, content=BROKEN[case], headers=JSON), 422) == ["body"]
        assert refused(doors.http.post(f"{job}/clone", content=BROKEN[case], headers=JSON), 422) == ["body"]


@pytest.mark.parametrize("depth", [30, 400, 900])
def test_deep_metadata_is_refused_in_changes_and_clones(doors: Doors, depth: int) -> None:
    body, job = b'{"metadata":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}", f"/v1/jobs/{doors.ended}"
    with unchanged(doors):
        for answer in (doors.http.patch(job, content=body, headers=JSON),
                       doors.http.post(f"{job}/clone", content=body, headers=JSON)):  # fmt: skip
            assert refused(answer, 422) in (["metadata"], ["body"])


LONG, DIGITS = "x" * 900_000, 10**4000
VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "NUL in a name": ({"model": "a\0b"}, "model"),
    "a lone surrogate in a name": ({"model": "\ud800"}, "model"),
    "a lone surrogate as a kind": ({"kind": "\udfff"}, "kind"),
    "a lone surrogate as a tag": ({"targets": {"source": "\ud800"}}, "targets.source"),
    "a huge kind": ({"kind": LONG}, "kind"),
    "a huge name": ({"model": LONG}, "model"),
    "a huge field": ({LONG: 1}, "x" * 500 + "..."),
    "a huge integer": ({"seed": DIGITS}, "seed"),
    "a huge integer for a fraction": ({"eps": DIGITS}, "eps"),
    "a huge index": ({"targets": {"source": "dataset", "dataset": "cifar10-sample", "indices": [2**64]}},
                     "targets.indices.0"),
    "an infinite fraction": ({"eps": float("inf")}, "eps"),
    "no number": ({"step_size": float("nan")}, "step_size"),
    "NUL in a description": ({"description": "\0"}, "description"),
    "a surrogate in a description": ({"description": "\ud800"}, "description"),
    "NUL in a label": ({"labels": {"a": "\0"}}, "labels.a"),
    "NUL in metadata": ({"metadata": {"a": ["\0"]}}, "metadata"),
    "NUL in a key of metadata": ({"metadata": {"\0": 1}}, "metadata"),
    "a surrogate in metadata": ({"metadata": {"a": "\ud800"}}, "metadata"),
    "NaN in metadata": ({"metadata": {"a": float("nan")}}, "metadata"),
    "metadata nested deeply": ({"metadata": {"a": json.loads(nested(300))}}, "metadata"),
    "metadata that is large": ({"metadata": {"a": LONG}}, "metadata"),
    "many labels": ({"labels": {f"l{n}": "" for n in range(10_000)}}, "labels"),
    "a prefix that leaves its folder": ({"targets": {"source": "prefix", "prefix": "imports/../jobs/"}},
                                        "targets.prefix"),
    "a day that is none": ({"deadline": "2031-02-30T00:00:00Z"}, "deadline"),
    "a time beyond the calendar": ({"deadline": "9999-12-31T23:59:59-23:59"}, "deadline"),
}  # fmt: skip


@pytest.mark.parametrize("case", VALUES)
def test_values_that_no_database_or_answer_could_hold_are_refused_by_name(doors: Doors, case: str) -> None:
    changes, field = VALUES[case]
    with unchanged(doors):
        assert refused(doors.http.post("/v1/jobs", content=sent(**changes), headers=JSON), 422) == [field]


@pytest.mark.parametrize("value", ["\0", "\ud800"])
@pytest.mark.parametrize("field", ["title", "licence"])
def test_registrations_take_no_text_that_a_database_refuses(doors: Doors, field: str, value: str) -> None:
    body = {"name": "x", "source": {"source": "torchvision", "weights": "ResNet18_Weights.IMAGENET1K_V1"}, field: value}
    with unchanged(doors):
        assert refused(doors.http.post("/v1/models", content=json.dumps(body), headers=JSON), 422) == [field]


TYPES = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml",
         "application", "/", ";;;", "application/jsonp", "application/octet-stream"]  # fmt: skip


@pytest.mark.parametrize("path", TAKING_JSON)
@pytest.mark.parametrize("media_type", [*TYPES, None])
def test_another_media_type_than_json_is_refused(doors: Doors, path: str, media_type: str | None) -> None:
    headers = {"Content-Type": media_type} if media_type else {}
    with unchanged(doors):
        assert refused(doors.http.post(path, content=sent(), headers=headers), 415) == ["Content-Type"]


@pytest.mark.parametrize("path", TAKING_BYTES)
def test_empty_uploads_are_refused(doors: Doors, path: str) -> None:
    with unchanged(doors):
        assert refused(doors.http.post(path, content=b"", headers=BYTES), 422) == ["body"]


def test_images_that_are_none_are_refused(doors: Doors) -> None:
    starts = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBP", b"\x93NUMPY\x01\0", b"GIF89a"]

    @FUZZ
    @given(start=st.sampled_from(starts), data=st.binary(min_size=1, max_size=300))
    def check(start: bytes, data: bytes) -> None:
        answer = doors.http.post("/v1/images", content=start + data, headers=BYTES)
        assert refused(answer, 422) == ["body"]

    with unchanged(doors):
        check()


@pytest.mark.parametrize("path", [*TAKING_JSON, *TAKING_BYTES])
def test_bodies_over_the_limit_are_refused_with_it(doors: Doors, path: str) -> None:
    with unchanged(doors):
        assert refused(doors.http.post(path, content=b" " * 2_000_001, headers=JSON), 413) == ["body"]

        def pieces() -> Iterator[bytes]:
            yield from [b" " * 100_000] * 21

        assert refused(doors.http.post(path, content=pieces(), headers=JSON), 413) == ["body"]


def raw(doors: Doors, data: bytes, then: bytes | None = None) -> bytes:
    """What the server says to these bytes; with `then`, the client hangs up after these."""
    with socket.create_connection(("127.0.0.1", doors.port), 10) as connection:
        connection.sendall(data)
        if then is not None:
            connection.sendall(then)
            with suppress(OSError):  # it has hung up itself
                connection.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionResetError):  # it hung up before it had read everything
            while piece := connection.recv(65_536):
                answer += piece
    return answer


def head(path: str, *headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


@pytest.mark.parametrize("path", [*TAKING_JSON, *TAKING_BYTES])
def test_bodies_that_end_early_make_nothing(doors: Doors, path: str) -> None:
    whole, chunked = sent(), "Transfer-Encoding: chunked"
    with unchanged(doors):
        raw(doors, head(path, f"Content-Length: {len(whole) + 1}"), whole)
        raw(doors, head(path, chunked), b"%x\r\n%b\r\n" % (len(whole), whole))  # no last chunk
        raw(doors, head(path, chunked), b"ffff\r\n" + whole)
        raw(doors, head(path, chunked), b"zz\r\n" + whole)
        raw(doors, head(path, "Content-Length: 10", chunked), b"0\r\n\r\n")
    assert doors.http.get("/healthz").status_code == 200


@pytest.mark.parametrize("line", ["Content-Length: -1", "Content-Length: 1e3", "Content-Length: 5, 6", "bad header",
                                  "Transfer-Encoding: gzip", "X: a\0b"])  # fmt: skip
def test_requests_that_are_no_http_are_refused(doors: Doors, line: str) -> None:
    with unchanged(doors):
        assert raw(doors, head("/v1/jobs", line) + sent()).startswith((b"HTTP/1.1 4", b"HTTP/1.1 501"))


def test_a_body_whose_length_is_beyond_all_numbers_is_too_large(doors: Doors) -> None:
    with unchanged(doors):
        assert raw(doors, head("/v1/jobs", f"Content-Length: {10**18}")).startswith(b"HTTP/1.1 413")


ODD = st.binary(max_size=60).map(lambda b: bytes(c for c in b if c >= 32 and c != 127).strip())
HEADERS = ("If-None-Match", "Range", "If-Range", "Accept", "Accept-Encoding", "X-Request-Id", "Authorization",
           "Cookie", "If-Modified-Since", "Content-Type", "Last-Event-ID", "Forwarded")  # fmt: skip
RANGES = st.sampled_from([b"bytes=0-", b"bytes=-1", b"bytes=5-2", b"bytes=99999999999999999999-", b"bytes=0-0,2-3",
                          b"*", b'W/"x"', b"items=0-1"])  # fmt: skip
READ = ("/v1/jobs", "/v1/jobs/{0}", "/v1/jobs/{0}/items", "/v1/jobs/{0}/items/0/artifacts/result.png",
        "/v1/jobs/{0}/table", "/v1/models", "/v1/models/cifar10-robust/weights", "/v1/images/{1}",
        "/v1/jobs/{0}/archive", "/v1/workers", "/v1/webhooks",
        "/openapi.json", "/docs")  # fmt: skip


@pytest.mark.parametrize("path", READ)
def test_odd_headers_change_no_answer_but_by_what_they_mean(doors: Doors, path: str) -> None:
    url = path.format(doors.ended, doors.known["image_id"])

    @FUZZ
    @given(headers=st.dictionaries(st.sampled_from(HEADERS), ODD | RANGES, max_size=4))
    def check(headers: dict[str, bytes]) -> None:
        answer = doors.http.get(url, headers=[(name.encode(), value) for name, value in headers.items()])
        if answer.status_code >= 400:
            assert "Range" in headers or "Last-Event-ID" in headers
            refused(answer, 416, 422)
        else:
            assert answer.status_code in (200, 206, 304)

    with unchanged(doors):
        check()


def test_any_idempotency_key_makes_one_job_or_none(doors: Doors) -> None:
    @FUZZ
    @given(key=ODD | st.sampled_from([b"k" * 255, b"k" * 256, b"", b"\xff" * 200, b"%00", b"'; DROP TABLE jobs;--"]))
    def check(key: bytes) -> None:
        headers = [(b"Content-Type", b"application/json"), (b"Idempotency-Key", key)]
        first, again = (doors.http.post("/v1/jobs", content=sent(steps=1), headers=headers) for _ in "12")
        if first.status_code == 202:
            assert again.json()["id"] == first.json()["id"]
            other = doors.http.post("/v1/jobs", content=sent(steps=2), headers=headers)
            assert other.json()["type"] == "/problems/idempotency-key-reused"
        else:
            assert refused(first, 422) == ["Idempotency-Key"]

    check()


PAGED = ("/v1/jobs", "/v1/dead-letters", "/v1/jobs/{0}/items", "/v1/jobs/{0}/artifacts", "/v1/jobs/{0}/errors",
         "/v1/jobs/{0}/result-shards")  # fmt: skip
PARTS = st.sampled_from(["", "0", "-1", str(2**31), str(2**62), str(2**63), "9" * 40, "1e308", "1e400", "nan", "-inf",
                         "\0", "\ud7ff", "x", "job_0", "٣", "1_000", " 1 ", "0x10", "true", "a|b"])  # fmt: skip


@pytest.mark.parametrize("path", PAGED)
def test_cursors_that_nobody_gave_are_refused_or_lead_somewhere(doors: Doors, path: str) -> None:
    url = path.format(doors.ended)
    made = st.lists(PARTS, min_size=1, max_size=4).map(lambda parts: encode_cursor(*parts))

    @settings(FUZZ, max_examples=60)
    @given(
        cursor=made
        | st.text(max_size=40).filter(lambda t: t.isprintable())
        | st.sampled_from(["=", "====", "x" * 500, "x" * 501])
    )
    def check(cursor: str) -> None:
        answer = doors.http.get(url, params={"cursor": cursor})
        if answer.status_code != 200:
            assert refused(answer, 422) == ["cursor"]

    with unchanged(doors):
        check()


@pytest.mark.parametrize(("query", "fields"), [("=x", ["query"]), ("&".join(f"a{n}=" for n in range(5000)), None)])
def test_parameters_without_a_name_and_very_many_are_refused_briefly(
    doors: Doors, query: str, fields: list[str] | None
) -> None:
    named = refused(doors.http.get(f"/v1/jobs?{query}"), 422)
    assert named == fields or len(named) == 100


ADDRESSES = ("/v1/jobs/%00", "/v1/jobs/%ff%fe", "/v1/jobs/..%2f..%2fetc%2fpasswd", "/v1/jobs/%2e%2e", "/v1/images/%00",
             "/v1/models/%00", "/v1/models/%ed%a0%80", "/v1/datasets/..%2f..", "/v1/jobs/{0}/items/" + "9" * 400,
             "/v1/jobs/{0}/items/0/artifacts/..%2f..%2fresult.png", "/v1/jobs/{0}/items/0/artifacts/%00",
             "/v1/jobs/" + "x" * 5000, "/ui/static/..%2fapp.py", "/ui/static/%2e%2e/app.py", "/ui/static/%00",
             "/v1//jobs", "/V1/jobs")  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_that_lead_nowhere_say_so(doors: Doors, address: str) -> None:
    answer = raw(doors, head(address.format(doors.ended), method="GET"))
    status, body = int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]
    assert status in (404, 422)
    assert b"content-type: application/problem+json" in answer.lower()
    assert json.loads(body)["status"] == status


def test_every_method_that_an_address_does_not_take_is_told_which_it_does(doors: Doors) -> None:
    for method in ("PUT", "PATCH", "TRACE", "OPTIONS", "HEAD"):
        answer = doors.http.request(method, "/v1/jobs")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
