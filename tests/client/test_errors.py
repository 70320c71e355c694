"""What the commands say of jobs that fail, and where they list it."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.client import Client
from tests.client.conftest import Command

pytestmark = pytest.mark.slow  # a service that computes
Job = dict[str, Any]
SUBMIT = ("submit", "--kind", "inversion", "--model", "cifar10-robust", "--preset", "cifar", "--set", "steps=5")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Three entries that are right, and twelve that are not."""
    path = tmp_path / "list.jsonl"
    entries = [{"dataset": "cifar10-sample", "index": index} for index in (0, 1, 2, *range(400, 412))]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_a_job_whose_entries_are_wrong_says_which_and_why(command: Command, manifest: Path) -> None:
    shown = command(*SUBMIT, "--targets", manifest.name, "-w")
    job = shown.stdout.split()[0]
    said = [line.strip() for line in shown.stderr.splitlines() if line.startswith("  ")]
    assert shown.returncode == 1
    assert said[0].startswith("Invalid inputs: 12 of ")
    assert said[1].startswith("entry 4: ")
    assert (len(said), said[-1]) == (12, f"and 2 more entries: robustreps errors {job}")
    status = [line.strip() for line in command("status", job).stdout.splitlines()]
    assert status[-12:] == said


def test_a_job_whose_items_failed_says_which_and_why(command: Command, torn: Job) -> None:
    error = torn_error(command, torn)
    assert f"  item 1: {error}\n" in command("status", torn["id"]).stdout
    watched = command("watch", torn["id"])
    assert (watched.returncode, watched.stdout) == (1, f"{torn['id']} partially_succeeded\n")
    assert f"  item 1: {error}\n" in watched.stderr


def torn_error(command: Command, torn: Job) -> str:
    (letter,) = map(json.loads, command("errors", torn["id"], "--json").stdout.splitlines())
    assert (letter["job"], letter["index"]) == (torn["id"], 1)
    return f"{letter['error']['title']}: {letter['error']['detail']}"


def test_errors_are_listed_entry_by_entry_and_item_by_item(
    client: Client, command: Command, manifest: Path, torn: Job
) -> None:
    job = client.wait(client.submit(kind="inversion", model="cifar10-robust", targets=manifest), interval=0.05)
    shown = command("errors", job["id"]).stdout.splitlines()
    assert [line.split()[1] for line in shown[1:]] == [str(entry) for entry in range(4, 16)]
    listed = [json.loads(line) for line in command("errors", job["id"], "-n", "5", "--json").stdout.splitlines()]
    assert listed == list(client.errors(job))[:5]
    assert command("errors", torn["id"]).stdout.splitlines()[1] == f"item 1  {torn_error(command, torn)}"
    assert command("errors", "job_0").returncode == 3


def test_failed_items_of_all_jobs_are_listed(client: Client, command: Command, torn: Job) -> None:
    (row,) = command("failed").stdout.splitlines()[1:]
    assert row.split()[:3] == [torn["id"], "1", "inversion"]
    assert [json.loads(line) for line in command("failed", "--json").stdout.splitlines()] == list(client.dead_letters())
    assert command("failed", "--title", "Another", "--json").stdout == ""


def test_what_happened_to_a_job_is_listed_newest_first(client: Client, command: Command, torn: Job) -> None:
    head, released, *others = command("logs", torn["id"]).stdout.splitlines()
    assert head.split() == ["at", "level", "shard", "event", "worker", "detail"]
    assert "released" in released
    assert released.split()[-1] == "state=done"
    assert "claimed" in others[-1]
    listed = [json.loads(line) for line in command("logs", torn["id"], "--json").stdout.splitlines()]
    assert listed == list(client.logs(torn))
    failed = command("logs", torn["id"], "--shard", "0", "--level", "error", "-n", "1").stdout.splitlines()[1:]
    assert [line.split()[2:6] for line in failed] == [["error", "0", "item", "failed"]]
    assert client.failures(torn)[0]["items"] == [1]
    assert [shard["state"] for shard in client.shards(torn)] == ["done"]
    assert command("logs", torn["id"], "--level", "fatal").returncode == 3
