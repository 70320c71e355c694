"""Large inversions, computed by the embedded service: pictures from the bucket, and what was finished taken over."""

import io
import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from service.settings import Settings
from service.storage import open_storage
from tests.fixtures import LiveService, inversion
from tests.service.test_images import encode, noise, npy

LINES = [
    {"key": "imports/photos/a.png", "id": "a", "label": "cat"}, {"key": "imports/photos/broken.png"},
    {"key": "imports/photos/none.png"}, {"key": "imports/photos/tensor.npy"}, {"key": "imports/photos/large.png"},
    {"dataset": "cifar10-sample", "index": 3},
]  # fmt: skip


@pytest.fixture
def photos(settings: Settings) -> None:
    """A folder of the bucket, with pictures and things that are none, and a manifest of them."""
    storage = open_storage(settings)
    pixels = noise(size=(32, 32))
    files = {
        "photos/a.png": encode(pixels), "photos/broken.png": encode(pixels)[:300],
        "photos/large.png": encode(pixels) + bytes(settings.max_body_bytes),
        "photos/tensor.npy": npy(np.zeros((3, 16, 16), np.float32)),
        "list.jsonl": "\n".join(map(json.dumps, LINES)).encode(),
    }  # fmt: skip
    for name, data in files.items():
        storage.put(f"imports/{name}", data, "application/octet-stream")


def bulk(**changes: Any) -> dict[str, Any]:
    return inversion(steps=5, **changes)


@pytest.mark.usefixtures("photos")
def test_what_a_manifest_names_is_inverted_and_what_cannot_be_read_fails_alone(live_service: LiveService) -> None:
    job = live_service.submit(bulk(targets={"source": "manifest", "key": "imports/list.jsonl"}))
    job = live_service.wait(job["id"])
    assert job["state"] == "partially_succeeded"
    items = list(live_service.client.items(job["id"]))
    assert [item["state"] for item in items] == ["succeeded", *["failed"] * 4, "succeeded", "succeeded"]
    assert [item["error"]["title"] for item in items[1:5]] == ["Input cannot be read"] * 4
    assert "truncated" in items[1]["error"]["detail"]
    assert "no object imports/photos/none.png" in items[2]["error"]["detail"]
    assert "is a tensor of 16 x 16" in items[3]["error"]["detail"]
    assert items[4]["error"]["detail"].endswith("bytes; allowed: 20,000,000")
    table = pq.read_table(io.BytesIO(live_service.client.artifact(items[-1], "items.parquet"))).to_pylist()
    assert (table[0]["id"], table[0]["label"], table[0]["state"], len(table)) == ("a", "cat", "succeeded", 6)


@pytest.mark.usefixtures("photos")
def test_a_job_that_is_sent_again_ends_with_the_same_files(live_service: LiveService) -> None:
    body = bulk(targets={"source": "prefix", "prefix": "imports/photos/a"}, on_invalid="skip")
    first = live_service.wait(live_service.submit(body)["id"])
    again = live_service.wait(live_service.submit(body | {"reuse": True})["id"])
    old, new = (next(live_service.client.items(job["id"])) for job in (first, again))
    assert new["provenance"]["reused"] == {"job": first["id"], "index": 0}
    digests = [{artifact["name"]: artifact["sha256"] for artifact in item["artifacts"]} for item in (old, new)]
    assert digests[0] == digests[1]
    assert live_service.client.artifact(new, "result.png") == live_service.client.artifact(old, "result.png")
