"""What a large job leaves, read by the libraries that people read such things with, from files and over HTTP."""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from safetensors.numpy import load

from service.client import Client
from tests.workers.conftest import Items, Run
from workers import context

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
COUNT = 40
MANIFEST = [{"dataset": "cifar10-sample", "index": n, "id": f"mine-{n}"} for n in range(30, 30 + COUNT - 1)]
GONE = {"key": "imports/none.png", "label": "gone"}


@dataclass(frozen=True)
class Done:
    """A job of a manifest whose last line names an object that is not there."""

    client: Client
    job: dict[str, Any]
    items: Items
    url: str
    folder: Path

    def shards(self) -> list[dict[str, Any]]:
        listed = self.client.request("GET", f"/v1/jobs/{self.job['id']}/result-shards").json()
        assert listed["next_cursor"] is None
        found: list[dict[str, Any]] = listed["result_shards"]
        return found

    def places(self, over: str) -> list[str]:
        """The tars, as addresses, or as files that were downloaded."""
        if over == "HTTP":
            return [self.url + shard["url"] for shard in self.shards()]
        for shard in self.shards():
            (self.folder / shard["name"]).write_bytes(self.client.request("GET", shard["url"]).content)
        return [str(self.folder / shard["name"]) for shard in self.shards()]

    def table(self, over: str) -> str:
        [file] = self.items[-1]["artifacts"]
        if over == "HTTP":
            return str(self.url + file["url"])
        path = self.folder / file["name"]
        path.write_bytes(self.client.artifact(self.items[-1], file["name"]))
        return str(path)


@pytest.fixture(scope="module")
def done(client: Client, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    lines = "\n".join(json.dumps(line) for line in (*MANIFEST, GONE))
    (data_dir / "objects" / "imports").mkdir(parents=True)
    (data_dir / "objects" / "imports" / "list.jsonl").write_text(lines)
    sent = client.submit(
        kind="inversion", model="cifar10-robust", preset="cifar", steps=5, on_invalid="skip",
        targets={"source": "manifest", "key": "imports/list.jsonl"},
    )  # fmt: skip
    job = client.wait(sent["id"], timeout=240, interval=0.1)
    url = str(client.request("GET", "/healthz").url).removesuffix("/healthz")
    return Done(client, job, list(client.items(job["id"])), url, tmp_path_factory.mktemp("shards"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))


def test_the_items_that_end_together_are_one_tar(done: Done) -> None:
    assert (done.job["state"], done.job["items"]["failed"]) == ("partially_succeeded", 1)
    shards = done.shards()
    assert sum(shard["items"] for shard in shards) == COUNT - 1
    assert len(shards) <= 6, "a batch at a time has at most 32 rows"


@pytest.mark.parametrize("over", ["files", "HTTP"])
def test_webdataset_reads_the_tars(done: Done, over: str) -> None:
    samples = {s["__key__"]: s for s in webdataset.WebDataset(done.places(over), shardshuffle=False).decode("rgb8")}
    assert samples.keys() == {f"{n:07d}" for n in range(COUNT - 1)}
    for item in done.items[: COUNT - 1]:
        sample = samples[f"{item['index']:07d}"]
        about = sample["json"]
        assert (about["index"], about["id"], about["metrics"]) == (
            item["index"],
            MANIFEST[item["index"]]["id"],
            item["metrics"],
        )
        with Image.open(io.BytesIO(done.client.artifact(item, "result.png"))) as picture:
            np.testing.assert_array_equal(sample["result.png"], np.asarray(picture))


def test_a_large_batch_is_several_tars(done: Done, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "MOST_BYTES", 150_000)
    targets = {"source": "dataset", "dataset": "cifar10-sample", "indices": list(range(8))}
    run("inversion", targets=targets)
    [last] = done.client.request("GET", "/v1/jobs?limit=1").json()["jobs"]
    shards = done.client.request("GET", f"/v1/jobs/{last['id']}/result-shards").json()["result_shards"]
    assert [(shard["first_item"], shard["items"]) for shard in shards] == [(0, 2), (2, 2), (4, 2), (6, 2)]
    assert all(100_000 < shard["size"] < 150_000 for shard in shards)


def test_a_file_by_itself_is_that_in_the_tar(done: Done) -> None:
    samples = {s["__key__"]: s for s in webdataset.WebDataset(done.places("files"), shardshuffle=False)}
    for item in (done.items[0], done.items[COUNT - 2]):
        own = samples[f"{item['index']:07d}"]
        for file in item["artifacts"]:
            data = done.client.artifact(item, file["name"])
            assert (data, hashlib.sha256(data).hexdigest()) == (own[file["name"]], file["sha256"])
        tensors = load(own["result.safetensors"])
        assert (tensors["image"].shape, len(tensors["loss"])) == ((3, 32, 32), 6)


@pytest.mark.parametrize("over", ["files", "HTTP"])
def test_datasets_reads_the_tars(done: Done, over: str, tmp_path: Path) -> None:
    found = datasets.load_dataset(
        "webdataset", data_files={"train": done.places(over)}, split="train", cache_dir=str(tmp_path)
    )
    assert sorted(found["__key__"]) == [f"{n:07d}" for n in range(COUNT - 1)]
    first = found[0]
    assert (first["result.png"].size, first["json"]["id"]) == ((32, 32), MANIFEST[first["json"]["index"]]["id"])


@pytest.mark.parametrize("over", ["files", "HTTP"])
def test_pandas_and_datasets_read_the_table(done: Done, over: str, tmp_path: Path) -> None:
    frame = pd.read_parquet(done.table(over))
    assert list(frame["index"]) == list(range(COUNT))
    assert list(frame["state"]) == ["succeeded"] * (COUNT - 1) + ["failed"]
    assert (frame["label"].iloc[-1], frame["error"].iloc[-1]) == ("gone", "Input cannot be read")
    assert list(frame["id"][:-1]) == [line["id"] for line in MANIFEST]
    for name in ("relative_distance", "steps_taken", "judge_prediction", "judge_agrees"):
        assert list(frame[name][:-1]) == [item["metrics"][name] for item in done.items[: COUNT - 1]]
    same = datasets.load_dataset(
        "parquet", data_files={"train": [done.table(over)]}, split="train", cache_dir=str(tmp_path)
    )
    assert (same["index"][:], same["judge_agrees"][0]) == (list(range(COUNT)), frame["judge_agrees"].iloc[0])


def test_the_table_says_where_each_file_lies(done: Done) -> None:
    tars = {shard["name"]: done.client.request("GET", shard["url"]).content for shard in done.shards()}
    rows = pq.read_table(done.table("files")).to_pylist()
    assert rows[-1]["files"] == []
    for row, item in zip(rows[: COUNT - 1], done.items, strict=False):
        tar = tars[row["result_shard"]]
        assert {f["name"] for f in row["files"]} == {f["name"] for f in item["artifacts"]}
        for file in row["files"]:
            data = tar[file["offset"] : file["offset"] + file["size"]]
            assert hashlib.sha256(data).hexdigest() == file["sha256"]
    about = json.loads(pq.read_schema(done.table("files")).metadata[b"robustreps"])
    assert (about["job"], about["parameters"]["steps"]) == (done.job["id"], 5)


def test_a_retry_makes_the_table_anew(done: Done) -> None:
    before = done.items[-1]
    done.client.retry(done.job["id"])
    job = done.client.wait(done.job["id"], timeout=240, interval=0.1)
    assert job["state"] == "partially_succeeded"
    after = list(done.client.items(job["id"]))[-1]
    assert (after["state"], after["epoch"]) == ("succeeded", before["epoch"] + 1)
    assert after["metrics"] == before["metrics"] == {"rows": COUNT, "columns": len(pq.read_schema(done.table("files")))}
