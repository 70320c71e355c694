"""An item that is being computed shows how it looks by then; whether it does changes nothing that it becomes."""

import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from service.client import ApiError, Client
from service.recipe_cli import connected
from service.settings import Settings
from workers.engine.glances import glance

Tensors = Callable[[dict[str, Any]], dict[str, Tensor]]
pytestmark = pytest.mark.slow
SECONDS = 240
STARTS: dict[str, Any] = {"coordinates": [3, 4], "starts": [{"source": "gray"}]}


def sample(*indices: int) -> dict[str, Any]:
    return {"source": "dataset", "dataset": "cifar10-sample", "indices": list(indices)}


LONG: dict[str, dict[str, Any]] = {
    "inversion": {"targets": sample(0, 1), "restarts": 2, "random_start": True, "eps": 5.0},
    "radius_sweep": {"targets": sample(0), "start": sample(2), "radii": [500.0, 1000.0]},
    "interpolation": {"first": sample(0), "second": sample(1), "lambdas": [0.25, 0.75]},
    "feature_visualization": STARTS,
    "regularized": STARTS | {"regularization": {}},
    "feature_manipulation": {"images": sample(0, 1), "coordinates": [3], "until": "threshold", "threshold": 1e9},
}


def in_a_hurry(data_dir: Path, preview_seconds: float) -> Settings:
    return Settings(data_dir=data_dir, port=0, heartbeat_seconds=2, reconcile_seconds=0.5,
                    preview_seconds=preview_seconds, deterministic_rows=4)  # fmt: skip


@pytest.fixture(scope="module")
def client(data_dir: Path) -> Iterator[Client]:
    with connected(None, in_a_hurry(data_dir, 0.05)) as client:
        yield client


def soon(ask: Callable[[], Any]) -> Any:
    """What it answers, once that is something."""
    until = time.monotonic() + SECONDS
    while not (answer := ask()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return answer


def previews(client: Client, job_id: str) -> list[dict[str, Any]]:
    """Those of all items, once there are any."""
    return [item["preview"] for item in client.items(job_id) if item["preview"]]


def decoded(data: bytes) -> "np.ndarray[Any, Any]":
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.array(image)


@pytest.mark.parametrize("name", LONG)
def test_items_of_every_search_are_seen_emerging_and_nothing_is_left_of_it(
    client: Client, data_dir: Path, name: str
) -> None:
    kind = "feature_visualization" if name == "regularized" else name
    job = client.submit(kind=kind, model="cifar10-robust", preset="cifar", steps=50_000, **LONG[name])["id"]
    both = soon(lambda: len(found := previews(client, job)) == 2 and found)
    first = decoded(client.request("GET", both[0]["url"]).content)
    assert first.shape == (32, 32, 3)
    later = soon(lambda: [p for p in previews(client, job) if p["step"] > both[0]["step"]])
    assert later[0]["url"] != both[0]["url"]
    assert later[0]["at"] > both[0]["at"]
    assert not np.array_equal(decoded(client.request("GET", later[0]["url"]).content), first)
    client.cancel(job)
    assert client.wait(job, SECONDS, 0.1)["state"] == "cancelled"
    assert previews(client, job) == []
    with pytest.raises(ApiError, match="no preview of item 0"):
        client.request("GET", later[0]["url"])
    soon(lambda: not list((data_dir / "objects" / "jobs" / job).rglob("previews-*")))


def test_a_paused_job_keeps_its_last_preview_until_it_goes_on(client: Client) -> None:
    asked: dict[str, Any] = {"kind": "inversion", "model": "cifar10-robust", "preset": "cifar", "steps": 50_000}
    job = client.submit(**asked, targets=sample(0, 1))["id"]
    soon(lambda: len(previews(client, job)) == 2)
    client.pause(job)
    soon(lambda: client.job(job)["items"]["running"] == 0)
    last = previews(client, job)
    assert decoded(client.request("GET", last[0]["url"]).content).shape == (32, 32, 3)
    assert 0 < last[0]["value"] < 2
    client.resume(job)
    assert soon(lambda: [p for p in previews(client, job) if p["step"] > last[0]["step"]])
    client.cancel(job)
    client.wait(job, SECONDS, 0.1)


def test_a_preview_is_the_iterate_of_its_step_and_a_sheet_has_every_frame(client: Client, tensors: Tensors) -> None:
    body: dict[str, Any] = {"kind": "inversion", "model": "cifar10-robust", "preset": "cifar", "steps": 129}
    job = client.submit(**body, frames=130, targets=sample(0, 1))["id"]
    seen: dict[tuple[int, int], Any] = {}
    while client.job(job)["state"] != "succeeded":
        for item in client.items(job):
            if (preview := item["preview"]) and (item["index"], preview["step"]) not in seen:
                answer = client.request("GET", preview["url"])
                if "max-age" in answer.headers["cache-control"]:  # else it is of a later step by now
                    seen[item["index"], preview["step"]] = decoded(answer.content)
        time.sleep(0.02)
    assert {index for index, _ in seen} == {0, 1}
    for item in client.items(job):
        frames = tensors(item)["frames"].permute(0, 2, 3, 1).numpy()
        for (_, step), shown in (each for each in seen.items() if each[0][0] == item["index"]):
            assert np.array_equal(shown, frames[step])
        sheet = decoded(client.artifact(item, "frames.png"))
        assert sheet.shape == (11 * 32, 12 * 32, 3)  # of 12 columns, 11 rows hold 130
        cells = sheet.reshape(11, 32, 12, 32, 3).swapaxes(1, 2).reshape(132, 32, 32, 3)
        assert np.array_equal(cells[:130], frames)
        assert json.loads(client.artifact(item, "trace.json"))["frame_steps"] == list(range(130))


def test_a_deterministic_result_is_bitwise_the_same_with_previews_without_and_where_they_fail(
    client: Client, data_dir: Path, tmp_path: Path
) -> None:
    body: dict[str, Any] = {"kind": "inversion", "model": "cifar10-robust", "preset": "cifar", "steps": 100,
                            "targets": sample(0, 1), "deterministic": True}  # fmt: skip

    def result(client: Client, job: str) -> bytes:
        assert client.wait(job, SECONDS, 0.1)["state"] == "succeeded"
        return client.artifact(next(client.items(job)), "result.safetensors")

    shown = client.submit(**body)["id"]
    soon(lambda: previews(client, shown))
    failing = client.submit(**body)["id"]
    in_the_way = data_dir / "objects" / "jobs" / failing / "shards"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()  # where their folder would be
    with connected(None, in_a_hurry(tmp_path, 0)) as without:
        plain = result(without, without.submit(**body)["id"])
    assert result(client, shown) == result(client, failing) == plain
    assert in_the_way.is_file()


def test_a_glance_is_of_256_pixels_at_most() -> None:
    large = torch.arange(3.0).view(3, 1, 1).expand(3, 300, 320) / 2
    (found,) = glance([large, large.flip(0)], [4, 5], [10, 20])
    pixels = np.frombuffer(found.data(), np.uint8).reshape(2, 256, 256, 3)
    assert (pixels == np.array([[0, 128, 255], [255, 128, 0]])[:, None, None]).all()
    assert glance([], [], []) == []
