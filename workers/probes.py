"""A worker's own port: /metrics, /healthz, and /readyz, which says whether it takes work and can do it."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service import counting, metrics, readiness
from service.access.scraping import REFUSED, may_scrape

if TYPE_CHECKING:
    from workers.runtime import Runtime

log = structlog.get_logger()
Answer = Callable[[str, str], tuple[int, str, bytes]]
"""To a path and an Authorization: status, media type and body."""
SECONDS = 10.0
"""For a request to be sent."""


class Consuming:
    """Whether Celery takes messages: `ready` is for its signal, which brings the consumer."""

    def __init__(self) -> None:
        self._consumer: Any = None

    def ready(self, consumer: Any) -> None:
        self._consumer = consumer

    def __call__(self) -> bool:
        # It sets the connection anew whenever it has lost it, and there is none meanwhile.
        connection = getattr(self._consumer, "connection", None)
        return connection is not None and bool(connection.connected)


def state(runtime: "Runtime", consuming: Callable[[], bool]) -> dict[str, str]:
    """Of the worker, its device, and the servers that it needs."""
    takes = "draining" if runtime.draining.is_set() else readiness.OK if consuming() else "consumes nothing"
    hangs = runtime.batcher.turns.silent() > runtime.settings.lease_seconds
    device = "hangs" if hangs else "lost" if runtime.batcher.ended else readiness.OK
    return {"worker": takes, "device": device} | readiness.of_servers(runtime.db, runtime.storage, runtime.broker)


class WorkCollector(Collector):
    """What the process computes, read from the batcher, which counts for itself."""

    def __init__(self, runtime: "Runtime") -> None:
        self.runtime = runtime

    def collect(self) -> Iterator[Metric]:
        batcher, settings = self.runtime.batcher, self.runtime.settings
        stats, lanes = batcher.stats, [place.lane for place in list(batcher.places.values())]
        for name, what, count in (
            ("image_steps", "Steps of rows that searched", stats.image_steps),
            ("row_steps", "Steps of all rows of batches, idle ones included: image-steps are so much of them",
             stats.row_steps),
            ("blocks", "Blocks of steps", stats.blocks),
            ("compute_seconds", "Seconds that the device computed searches", stats.seconds),
        ):  # fmt: skip
            yield CounterMetricFamily(f"robustreps_{name}", what, value=count)
        for name, what, value in (
            ("batch_rows", "Rows that search now", sum(len(lane.searches) for lane in lanes)),
            ("batch_rows_limit", "Rows that batches have room for",
             sum(lane.capacity for lane in lanes if lane.searches) or batcher.most),
            ("shards_held", "Shards that this process holds", len(self.runtime.held)),
            ("shards_limit", "Shards that it can hold", settings.worker_threads),
            ("device_silent_seconds", "How long the device has been at one thing", batcher.turns.silent()),
        ):  # fmt: skip
            yield GaugeMetricFamily(f"robustreps_{name}", what, value=value)
        if memory := device_memory(self.runtime):
            family = GaugeMetricFamily("robustreps_device_memory_bytes", "Memory of the GPU", labels=["state"])
            for kind, size in memory.items():
                family.add_metric([kind], size)
            yield family


def device_memory(runtime: "Runtime") -> dict[str, int]:
    """Bytes of a GPU by state; nothing of a processor, whose memory is the process's."""
    import torch  # here: the worker's entry imports this before it loads torch

    device = runtime.models.device
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    return {"allocated": allocated, "reserved": reserved, "free": free, "total": total}


class Probes:
    """Serves the port until `close`; without a port it only counts."""

    def __init__(self, runtime: "Runtime", consuming: Callable[[], bool], port: int) -> None:
        self.runtime, self._consuming, self._collector = runtime, consuming, WorkCollector(runtime)
        metrics.REGISTRY.register(self._collector)
        self._server = _opened((runtime.settings.host, port), self._answer) if port else None
        if self._server:
            threading.Thread(target=self._server.serve_forever, name="probes", daemon=True).start()

    @property
    def port(self) -> int:
        """The one that was taken."""
        return int(self._server.server_address[1]) if self._server else 0

    def close(self) -> None:
        metrics.REGISTRY.unregister(self._collector)
        if self._server:
            self._server.shutdown()
            self._server.server_close()

    def _answer(self, path: str, authorization: str) -> tuple[int, str, bytes]:
        if path == "/metrics" and not may_scrape(self.runtime.settings, authorization):
            return 401, "text/plain", REFUSED.encode()
        if path == "/metrics":
            return 200, CONTENT_TYPE_PLAIN_0_0_4, counting.exposition()
        if path == "/healthz":
            return 200, "application/json", json.dumps({"status": readiness.OK}).encode()
        if path == "/readyz":
            found = state(self.runtime, self._consuming)
            return 200 if readiness.ready(found) else 503, "application/json", json.dumps(found).encode()
        return 404, "text/plain", b"/metrics, /healthz or /readyz\n"


def _opened(address: tuple[str, int], answer: Answer) -> "_Server | None":
    """None if another process has the port: the work goes on without it."""
    try:
        return _Server(address, answer)
    except OSError as e:
        log.error("the port for metrics and health cannot be had", host=address[0], port=address[1], reason=str(e))
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], answer: Answer) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = SECONDS

            def do_GET(self) -> None:
                status, media_type, body = answer(self.path.partition("?")[0], self.headers.get("Authorization", ""))
                self.send_response(status)
                self.send_header("Content-Type", media_type)
                if status == 401:
                    self.send_header("WWW-Authenticate", "Bearer")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nothing: it would be asked for every few seconds."""

        super().__init__(address, Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Of an exception: in the log, in place of a traceback past it. That somebody hangs up is none."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            log.exception("a probe was not answered", client=client_address[0])
