"""`robustreps health`, as containers ask it: the API and a worker on real servers, each there and gone."""

import signal
import subprocess

import pytest

from deploy.servers import usable_port
from tests.stack import ROBUSTREPS, Stack

pytestmark = pytest.mark.e2e


def health(stack: Stack, *arguments: str, **settings: str) -> tuple[int, list[str]]:
    """The status, and a line for each part."""
    environment = stack.environment | {f"ROBUSTREPS_{name.upper()}": value for name, value in settings.items()}
    done = subprocess.run([ROBUSTREPS, "health", *arguments], env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()


def test_the_api_is_healthy_while_it_can_work(stack: Stack) -> None:
    assert health(stack) == (0, ["database: ok", "schema: ok", "storage: ok", "broker: ok"])
    (api,) = stack.processes
    api.send_signal(signal.SIGTERM)
    api.wait(60)
    status, (line,) = health(stack)
    assert (status, line.partition(" ")[0]) == (1, "api:")


def test_a_worker_is_healthy_from_when_it_takes_work_until_it_ends(stack: Stack) -> None:
    assert health(stack, "--worker") == (1, ["database: ok", "worker: silent", "broker: ok"])
    worker = stack.start("worker")
    stack.wait_until(lambda: health(stack, "--worker")[0] == 0, 120)
    worker.send_signal(signal.SIGTERM)
    worker.wait(60)
    assert health(stack, "--worker") == (1, ["database: ok", "worker: silent", "broker: ok"])


def test_a_worker_that_nobody_can_tell_of_work_is_not_healthy(stack: Stack) -> None:
    stack.start("worker")
    stack.wait_until(lambda: health(stack, "--worker")[0] == 0, 120)
    nowhere = f"127.0.0.1:{usable_port()}"
    assert health(stack, "--worker", broker_url=f"redis://{nowhere}/0")[1][-1] == "broker: unreachable"
    status, lines = health(stack, "--worker", database_url=f"postgresql+psycopg://postgres@{nowhere}/robustreps")
    assert (status, lines[:2]) == (1, ["database: unreachable", "worker: unknown"])
