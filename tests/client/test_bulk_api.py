"""The client and the commands on what the API has for many and large: filters, plans, uploads, archives, events."""

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.client import ApiError, Client
from tests.client.conftest import Command
from tests.fixtures import inversion

pytestmark = pytest.mark.slow  # a service that computes
Job = dict[str, Any]


def test_a_plan_queues_nothing(client: Client, command: Command) -> None:
    before = [job["id"] for job in client.jobs()]
    plan = client.plan(inversion(), targets="cifar10-sample:0-4")
    shown = command("submit", "-", "--dry-run", stdin=json.dumps(inversion()))
    assert [job["id"] for job in client.jobs()] == before
    assert (plan["items"], plan["image_steps"]) == (5, 100)
    assert shown.returncode == 0
    assert "image-steps  60" in shown.stdout


def test_jobs_are_found_by_label_text_and_time(client: Client, command: Command) -> None:
    job = client.submit(**inversion(steps=5), labels={"team": "a", "draft": ""}, description="Needle in hay")
    asked = ("--label", "team=a", "--label", "draft", "--text", "needle", "--after", "2000-01-01T00:00:00Z")
    (found,) = json.loads(command("status", *asked, "--json").stdout)
    assert found["id"] == job["id"]
    assert json.loads(command("status", *asked, "--label", "team=b", "--json").stdout) == []
    assert "draft, team=a" in command("status", job["id"]).stdout


def test_what_a_job_is_called_is_changed(client: Client) -> None:
    job = client.submit(**inversion(steps=5), labels={"team": "a"}, description="Before")
    changed = client.update(job, description="After", labels={"team": None, "new": "x"})
    assert (changed["description"], changed["labels"]) == ("After", {"new": "x"})


def test_a_clone_is_the_same_request_but_for_what_was_set(client: Client, command: Command, done: Job) -> None:
    shown = command("clone", done["id"], "--set", "steps=7", "--json")
    job = json.loads(shown.stdout)
    assert job["cloned_from"] == done["id"]
    assert job["parameters"]["steps"] == 7
    assert client.clone(done)["parameters"] == done["parameters"]


def test_jobs_are_deleted_only_when_that_is_meant(client: Client, command: Command) -> None:
    job = client.wait(client.submit(**inversion(steps=5)), interval=0.05)
    assert command("delete", job["id"], stdin="n\n").returncode == 1
    assert client.job(job)["id"] == job["id"]
    assert command("delete", job["id"], "--yes").stdout == f"{job['id']} deleted\n"
    with pytest.raises(ApiError, match="no job"):
        client.job(job)


def test_a_job_that_is_going_is_deleted_only_with_cancel(client: Client, command: Command) -> None:
    job = client.submit(**inversion(steps=100_000))["id"]
    assert command("delete", job, "--yes").returncode == 3
    assert json.loads(command("delete", job, "--yes", "--cancel", "--json").stdout) == [
        {"id": job, "state": "deleted"},
    ]


def test_workers_are_listed(client: Client, command: Command) -> None:
    (worker,) = client.workers()
    assert worker["state"] == "alive"
    assert json.loads(command("workers", "--json").stdout)[0]["id"] == worker["id"]
    assert worker["id"] in command("workers").stdout


def test_a_manifest_is_uploaded_and_inverted(client: Client, command: Command, tmp_path: Path) -> None:
    lines = [{"dataset": "cifar10-sample", "index": index, "id": f"n{index}"} for index in (3, 1)]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = command("submit", "--kind", "inversion", "--model", "cifar10-robust", "--preset", "cifar",
                    "--set", "steps=5", "--targets", "list.jsonl", "--watch")  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    items = list(client.items(shown.stdout.split()[0]))
    assert [item["target"].get("index") for item in items[:2]] == [3, 1]


def test_a_file_that_is_there_already_is_not_sent_again(client: Client, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(np.random.default_rng(0).bytes(300_000))
    first = client.upload_file(tmp_path / "weights.pt")
    assert client.json("GET", f"/v1/checkpoints/{first}")["size"] == 300_000
    (tmp_path / "copy.pt").write_bytes((tmp_path / "weights.pt").read_bytes())
    assert client.upload_file(tmp_path / "copy.pt") == first


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_a_job_is_downloaded_as_one_file(
    client: Client, command: Command, done: Job, tmp_path: Path, suffix: str
) -> None:
    shown = command("results", done["id"], "--archive", f"all.{suffix}", "--items", "0-1", "--name", "result.png")
    assert shown.stdout == f"1 file in all.{suffix}\n"
    path = tmp_path / f"all.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(path) as packed:
            names, data = packed.namelist(), packed.read("items/0000001/result.png")
    else:
        with tarfile.open(path) as tar:
            member = tar.extractfile("items/0000001/result.png")
            assert member
            names, data = tar.getnames(), member.read()
    assert names == ["job.json", "items/0000000/result.png", "items/0000001/result.png", "items.jsonl"]
    assert data == client.artifact(client.results(done)[1], "result.png")


def test_an_archive_that_is_refused_leaves_no_file(command: Command, done: Job, tmp_path: Path) -> None:
    shown = command("results", done["id"], "--archive", "all.rar")
    assert shown.returncode == 3
    assert "format: Input should be 'zip' or 'tar'" in shown.stderr
    assert list(tmp_path.iterdir()) == []


def test_events_tell_a_jobs_whole_life_and_go_on_from_any(client: Client) -> None:
    events = list(client.events(client.submit(**inversion(steps=20))))
    states = [event.data["state"] for event in events if event.event == "state"]
    assert states == ["validating", "queued", "running", "finalizing", "succeeded"]
    assert events[-1].event == "end"
    job, since = events[-1].data["job"], events[1].id
    later = [event.data["state"] for event in client.events(job, since) if event.event == "state"]
    assert later == states[2:]
    assert [event.event for event in client.events(job, events[-1].id)] == ["end"]
