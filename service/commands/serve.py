"""`robustreps serve`."""

import os
import signal
from contextlib import ExitStack
from tempfile import TemporaryDirectory

import typer

from service.settings import get_settings


def serve() -> None:
    """Serve the API and the dashboard; in the embedded mode, compute as well."""
    settings = get_settings()

    def end(*_: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)  # uvicorn raises it again once it has stopped: the worker still has to let go
    with ExitStack() as stack:
        if settings.api_processes > 1:  # before anything is counted: prometheus_client decides as it is imported
            folder = stack.enter_context(TemporaryDirectory(prefix="robustreps-metrics-"))
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        from service import logs, tracing
        from service.access.first import link
        from service.server import Processes, settled
        from service.serving import serving

        logs.start(settings, service="api")
        tracing.configure(settings, "api")
        stack.callback(tracing.close)
        server = stack.enter_context(serving(settings))
        typer.echo(
            f"robustreps: http://{settings.host}:{settings.port}/  (API under /v1, reference at /docs)", err=True
        )
        if settings.embedded and settings.auth == "on":
            typer.echo(f"Sign in, once, within an hour: {settings.api_url}/ui/#token={link(settings)}", err=True)
        with settled():
            (server if settings.api_processes == 1 else Processes(settings)).run()
