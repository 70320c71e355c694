"""uvicorn as the service runs it: with bounds, and if asked in several processes that share a port."""

import gc
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection

import structlog
import uvicorn
from fastapi import FastAPI
from prometheus_client.multiprocess import mark_process_dead

from service import logs, tracing
from service.app import create_app
from service.protocol import Protocol
from service.settings import Settings

MOST_CONNECTIONS, BACKLOG, IDLE = 800, 1024, 30
"""Connections of a process, more of which are answered 503; those that wait to be accepted; seconds without a request
after which one is closed."""
PAUSE = 1.0
"""Seconds before a process that ended is started again."""
log = structlog.get_logger()


def config(settings: Settings, app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app, host=settings.host, port=settings.port, http=Protocol, limit_concurrency=MOST_CONNECTIONS,
        backlog=BACKLOG, timeout_keep_alive=IDLE, log_config=None, access_log=False,
    )  # fmt: skip


class Server(uvicorn.Server):
    """Ends the event streams as it ends: it would wait for them for ever."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.feed.close()  # type: ignore[union-attr]
        await super().shutdown(sockets)


@contextmanager
def settled() -> Iterator[None]:
    """For a process that does nothing but serve: what is there by now stays, and no collection looks at it again."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()  # libraries say of what is never collected that it leaked


class Processes:
    """`api_processes` processes that accept from one socket; each has its own connections to the servers."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self._spawn = settings, multiprocessing.get_context("spawn")

    def run(self) -> None:
        """Until an exception, such as SystemExit by a signal; a process that ends by itself is started again."""
        shared = socket.create_server((self.settings.host, self.settings.port), backlog=BACKLOG)
        running = [self._started(shared, n) for n in range(self.settings.api_processes)]
        try:
            while True:
                connection.wait([process.sentinel for process in running])
                threading.Event().wait(PAUSE)
                for n, process in enumerate(running):
                    if not process.is_alive():
                        mark_process_dead(process.name)
                        log.error("a process of the API ended; starting another", status=process.exitcode)
                        running[n] = self._started(shared, n)
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.join()
            shared.close()

    def _started(self, shared: socket.socket, n: int) -> multiprocessing.process.BaseProcess:
        process = self._spawn.Process(target=_serve, args=(self.settings, shared), name=f"api-{n}")
        process.start()
        return process


def _serve(settings: Settings, shared: socket.socket) -> None:
    """The whole life of one of several processes."""
    logs.start(settings, service="api")
    tracing.configure(settings, "api")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    server = Server(config(settings, create_app(settings)))
    with settled():
        server.run(sockets=[shared])
    tracing.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
