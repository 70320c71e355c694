"""Traces by OpenTelemetry, off unless there is somewhere to send them: a request, and the work that it led to.

A job's row keeps the context of the request that made it (W3C's traceparent), so that whoever claims a shard of it
goes on with the same trace, however long that is after, and whatever became of the message.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

FLUSH_MS = 2000
"""Milliseconds that a process which ends waits for what it has not sent."""
UNTRACED = ("/healthz", "/readyz", "/metrics", "/ui/static/")
_carrier = TraceContextTextMapPropagator()
_provider: "TracerProvider | None" = None


def configure(settings: Settings, name: str) -> "TracerProvider | None":
    """Have this process send its spans to `otlp_endpoint`, as the service `name`; None if there is none."""
    global _provider
    if not settings.otlp_endpoint or _provider is not None:
        return _provider
    # Here: they take as long to import as the rest of a command, and most processes send nothing.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # Not the global one: what some library would trace by that is not for this.
    _provider = TracerProvider(resource=Resource.create({"service.name": f"robustreps-{name}"}))
    exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces")
    _provider.add_span_processor(BatchSpanProcessor(exporter))
    return _provider


def of_requests() -> TelemetryConfig:
    """How FastAPI traces requests: each has a span, but for probes and what belongs to a page."""
    return {
        "tracing": _provider is not None, "tracer_provider": _provider, "operation_spans": False, "metrics": False,
        "logs": False, "auto_configure": False, "exclude": lambda scope: str(scope["path"]).startswith(UNTRACED),
    }  # fmt: skip


def flush() -> None:
    """Send what waits, before a process ends that runs no code at exit."""
    if _provider is not None:
        _provider.force_flush(FLUSH_MS)


def close() -> None:
    """Send what waits, and send nothing more."""
    global _provider
    if _provider is not None:
        flush()
        _provider.shutdown()
        _provider = None


def current() -> str | None:
    """The context of this thread's span, as a job's row keeps it."""
    if _provider is None:
        return None
    carrier: dict[str, str] = {}
    _carrier.inject(carrier)
    return carrier.get("traceparent")


def ids() -> dict[str, str]:
    """What a line of the log has of the span that it was written in."""
    if _provider is None or not (context := trace.get_current_span().get_span_context()).is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def now() -> int:
    """A time as spans have it."""
    return time.time_ns()


@contextmanager
def span(name: str, parent: str | None = None, **attributes: Any) -> Iterator[None]:
    """What the block does, as a child of this thread's span, or of the `parent` that a job's row kept.

    An exception ends it as an error. Without a receiver it does nothing.
    """
    if _provider is None:
        yield
        return
    begun = parent is not None or not trace.get_current_span().get_span_context().is_valid
    with _provider.get_tracer("robustreps").start_as_current_span(
        name,
        context=_carrier.extract({"traceparent": parent}) if parent else None,
        kind=SpanKind.CONSUMER if begun else SpanKind.INTERNAL,
        attributes=_named(attributes),
        record_exception=False,  # its message may name what is nobody's business; the log has it, without secrets
        set_status_on_exception=False,
    ) as made:
        try:
            yield
        except BaseException as e:
            made.set_status(Status(StatusCode.ERROR, type(e).__name__))
            raise


def past(name: str, since: int, until: int | None = None, **attributes: Any) -> None:
    """A child of this thread's span for what took from one `now()` to another, or until now."""
    if _provider is not None:
        tracer = _provider.get_tracer("robustreps")
        tracer.start_span(name, start_time=since, attributes=_named(attributes)).end(until)


def _named(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {f"robustreps.{name}": value for name, value in attributes.items()}
