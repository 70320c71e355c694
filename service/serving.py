"""The service in this process: the API server with its reconciler and, in the embedded mode, its worker."""

import fcntl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import uvicorn

from service import db
from service.access.first import first_key
from service.access.secret import server_secret
from service.app import create_app, open_context
from service.bulk.planner import BulkPlanner
from service.reconciler import Reconciler
from service.server import Server, config
from service.settings import Settings
from service.webhooks.sender import Sender


@contextmanager
def sole_process(data_dir: Path) -> Iterator[None]:
    """The embedded mode is one process: its broker lives in memory. Exits if another one has `data_dir`."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(
                f"another process serves {data_dir.absolute()} already; use it, by --api URL or ROBUSTREPS_API, or"
                " stop it, set another ROBUSTREPS_DATA_DIR, or set ROBUSTREPS_BROKER_URL and ROBUSTREPS_DATABASE_URL to"
                " run several"
            )
        yield


def embedded_worker() -> Callable[..., Any]:
    """The worker's class. Exits if the worker is not installed."""
    found = list(entry_points(group="robustreps.worker"))
    if not found:
        sys.exit("the embedded mode computes in this process: pip install 'robustreps[worker]'")
    worker: Callable[..., Any] = found[0].load()
    return worker


@contextmanager
def serving(settings: Settings) -> Iterator[uvicorn.Server]:
    """An API server ready to run, with its reconciler, and in the embedded mode its worker and its schema."""
    with ExitStack() as stack:
        if settings.embedded:
            stack.enter_context(sole_process(settings.data_dir))
            db.migrate(settings.database)
        context = open_context(settings)
        stack.callback(context.close)
        if settings.auth == "on":
            _keys(context.db, settings)
        reconciler = Reconciler(context.db, context.broker, settings, context.storage)
        reconciler.start()
        stack.callback(reconciler.close)
        planner = BulkPlanner(context.db, context.storage, context.broker, context.catalog, settings, context.planning)
        planner.start()
        stack.callback(planner.close)
        sender = Sender(context.db, settings)
        sender.start()
        stack.callback(sender.close)
        if settings.embedded:
            worker = embedded_worker()(context)
            worker.start()
            stack.callback(worker.close)
        yield Server(config(settings, create_app(settings, context)))


def _keys(database: db.Database, settings: Settings) -> None:
    """What keys need: the server's secret and, embedded, the first of them. Exits if there is no secret."""
    try:
        server_secret(settings)
    except ValueError as e:
        sys.exit(str(e))
    if settings.embedded:
        first_key(database, settings)


@contextmanager
def running(server: uvicorn.Server) -> Iterator[str]:
    """Run the server in a thread; yields its URL."""
    thread = threading.Thread(target=server.run, name="api", daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            sys.exit("the API did not start; see above")
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
