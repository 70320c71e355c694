"""One trace from a request through the queue to the upload, as a receiver of OTLP sees it."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from sqlalchemy import select

from deploy.servers import usable_port
from service import tracing
from service.client import Client
from service.models import Job
from service.settings import Settings
from tests.fixtures import inversion
from tests.stack import PATIENCE, Stack, ready

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Spans:
    """What came, by name; each with its trace, its own id, its parent's, its service and attributes."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self.url = ""

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            self.found += [
                {"name": s.name, "trace": s.trace_id.hex(), "id": s.span_id.hex(), "parent": s.parent_span_id.hex(),
                 "service": service, "seconds": (s.end_time_unix_nano - s.start_time_unix_nano) / 1e9,
                 "attributes": {a.key: a.value.string_value or a.value.int_value for a in s.attributes}}
                for scope in resource.scope_spans
                for s in scope.spans
            ]  # fmt: skip

    def of(self, trace: str) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for span in self.found:
            if span["trace"] == trace:
                found.setdefault(span["name"], []).append(span)
        return found


@contextmanager
def receiving() -> Iterator[Spans]:
    """An OTLP receiver over HTTP."""
    spans = Spans()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            spans.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    spans.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield spans
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.e2e
def test_one_trace_leads_from_the_request_through_the_queue_to_the_upload(stack: Stack) -> None:
    with receiving() as spans:
        port = usable_port()
        stack.environment |= {
            "ROBUSTREPS_OTLP_ENDPOINT": spans.url, "ROBUSTREPS_PORT": str(port), "OTEL_BSP_SCHEDULE_DELAY": "200"
        }  # fmt: skip
        stack.start("serve")
        stack.start("worker")
        with Client(f"http://127.0.0.1:{port}", PATIENCE) as client:
            stack.wait_until(lambda: ready(client))
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            job_id = client.json("POST", "/v1/jobs", json=inversion(), headers=headers)["id"]
        assert stack.succeeded(job_id)
        wanted = {"POST /v1/jobs", "shard", "queue", "claim", "load", "compute", "save", "upload"}
        stack.wait_until(lambda: wanted <= spans.of(TRACE).keys())
        found = spans.of(TRACE)
        (request,), (shard,), (compute,) = found["POST /v1/jobs"], found["shard"], found["compute"]
        assert (request["parent"], request["service"]) == (PARENT, "robustreps-api")
        assert (shard["parent"], shard["service"]) == (request["id"], "robustreps-worker")
        assert shard["attributes"]["robustreps.job"] == job_id
        assert {found[name][0]["parent"] for name in ("queue", "claim", "compute")} == {shard["id"]}
        assert {found[name][0]["parent"] for name in ("load", "save")} == {compute["id"]}
        assert {each["parent"] for each in found["upload"]} <= {each["id"] for each in found["save"]}
        assert 0 <= found["queue"][0]["seconds"] < 600
        assert not any(each["name"].endswith(("/readyz", "/metrics")) for each in spans.found)
        with stack.db.reading() as session:
            assert session.scalars(select(Job.trace).where(Job.id == job_id)).one() == f"00-{TRACE}-{request['id']}-01"


def test_without_a_receiver_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert tracing.configure(Settings(), "api") is None
    with tracing.span("shard", f"00-{TRACE}-{PARENT}-01"):
        assert (tracing.current(), tracing.ids()) == (None, {})


def test_the_standards_own_variable_names_the_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    assert Settings().otlp_endpoint == "http://collector:4318"
    assert Settings(otlp_endpoint="http://other:4318").otlp_endpoint == "http://other:4318"


def test_a_failed_block_is_an_error_of_its_span_and_lines_of_the_log_name_it() -> None:
    with receiving() as spans:
        assert tracing.configure(Settings(otlp_endpoint=spans.url), "worker")
        with suppress(ValueError), tracing.span("shard", f"00-{TRACE}-{PARENT}-01"):
            assert tracing.ids()["trace_id"] == TRACE
            raise ValueError("whsec_not to be told")
        tracing.close()
        assert tracing.ids() == {}
        (span,) = spans.of(TRACE)["shard"]
        assert span["parent"] == PARENT
        assert "not to be told" not in str(spans.found)
