"""A job's results, as the client gives them: the same as what the job stored, and as other libraries read it."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load

from service.client import Client
from service.remote.files import DigestError, download, parallel
from service.remote.pictures import tensors
from tests.client.wire import answer, server
from tests.fixtures import inversion

pytestmark = pytest.mark.slow  # a service that computes
Job = dict[str, Any]


def exact(client: Client, job: Job, name: str) -> list[np.ndarray[Any, Any]]:
    """By the library that others read them with."""
    return [load(client.artifact(item, "result.safetensors"))[name] for item in client.items(job)]


def test_results_are_the_items_in_order(client: Client, done: Job) -> None:
    results = client.results(done)
    assert list(results) == list(client.items(done["id"]))
    assert (len(results), results[2]["index"]) == (3, 2)


def test_images_are_the_stored_pictures(client: Client, done: Job) -> None:
    for name in ("result.png", "target.png"):
        for image, item in zip(client.results(done).images(name), client.items(done), strict=True):
            with Image.open(io.BytesIO(client.artifact(item, name))) as stored:
                assert np.array_equal(np.asarray(image), np.asarray(stored))


def test_arrays_and_tensors_are_exact(client: Client, done: Job) -> None:
    results, images = client.results(done), np.stack(exact(client, done, "image"))
    assert np.array_equal(results.numpy(), images.transpose(0, 2, 3, 1))
    assert results.numpy().shape == (3, 32, 32, 3)
    assert torch.equal(results.torch(), torch.from_numpy(images))
    assert np.array_equal(results.numpy("representation"), np.stack(exact(client, done, "representation")))
    assert set(results.arrays()[0]) == set(load(client.artifact(results[0], "result.safetensors")))


def test_an_array_that_no_item_has_is_refused(client: Client, done: Job) -> None:
    with pytest.raises(KeyError, match=r"nothing is no array .* allowed: grad_norm, image"):
        client.results(done).numpy("nothing")


def test_rows_of_arrays_and_pictures_say_which_item_they_are_of(client: Client, torn: Job) -> None:
    results = client.results(torn)
    assert results.indices() == results.indices("result.png") == [0, 2]
    for row, index in zip(results.numpy(), results.indices(), strict=True):
        stored = load(client.artifact(results[index], "result.safetensors"))["image"]
        assert np.array_equal(row, stored.transpose(1, 2, 0))


def test_a_file_that_no_item_has_is_refused(client: Client, done: Job) -> None:
    with pytest.raises(KeyError, match=r"no item of job_\w+ has a file nope\.png; allowed: result\.png, result\.safe"):
        client.results(done).images("nope.png")


def test_the_item_that_is_a_bulk_jobs_table_is_not_counted(client: Client, reused: Job) -> None:
    results = client.results(reused)
    assert (reused["items"]["total"], len(results), len(results.dataframe()), len(results.everything)) == (5, 4, 4, 5)
    assert results.indices("items.parquet") == [4]


def test_results_say_what_they_are_of(client: Client, torn: Job, reused: Job) -> None:
    said = f"<Results of {torn['id']}, partially_succeeded: 3 items, 2 succeeded, 1 failed>"
    assert repr(client.results(torn)) == said
    assert repr(client.results(reused)) == f"<Results of {reused['id']}, succeeded: 4 items, 4 succeeded>"


def test_a_table_has_a_row_an_item_and_a_column_a_metric(client: Client, done: Job) -> None:
    table = client.results(done).dataframe()
    assert list(table.index) == [0, 1, 2]
    assert list(table["state"]) == ["succeeded"] * 3
    assert list(table["target_index"]) == [0, 1, 2]
    assert list(table["ssim"]) == [item["metrics"]["ssim"] for item in client.items(done)]


def test_a_download_has_every_file_as_it_was_stored(client: Client, done: Job, tmp_path: Path) -> None:
    paths = client.results(done).save(tmp_path)
    items = list(client.items(done))
    digests = {f"items/{i['index']:07d}/{a['name']}": a["sha256"] for i in items for a in i["artifacts"]}
    assert {str(p.relative_to(tmp_path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths} == digests
    assert json.loads((tmp_path / "job.json").read_text())["id"] == done["id"]
    assert [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()] == items


def test_a_download_goes_on_where_it_broke_off(client: Client, done: Job, tmp_path: Path) -> None:
    results = client.results(done)
    first, second, third = results.save(tmp_path, ["result.png"])
    whole = second.read_bytes()
    second.write_bytes(whole[:-1] + b"x")
    third.unlink()
    before = first.stat().st_mtime_ns
    assert results.save(tmp_path, ["result.png"]) == [first, second, third]
    assert second.read_bytes() == whole
    assert third.exists()
    assert first.stat().st_mtime_ns == before
    assert not list(tmp_path.rglob("*.part"))


def test_a_file_that_broke_off_is_asked_for_from_there_on(tmp_path: Path) -> None:
    whole = bytes(range(256)) * 1000
    found = {"url": "/file", "size": len(whole), "sha256": hashlib.sha256(whole).hexdigest(), "name": "file"}
    torn = answer(whole)[: -len(whole) // 2]
    have = len(torn) - (len(answer(whole)) - len(whole))
    with server(torn, answer(whole[have:], "206 Partial Content")) as (url, seen), Client(url) as client:
        download(client, found, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == whole
    assert f"range: bytes={have}-" in seen[1].decode().lower()


def test_a_file_whose_first_part_was_damaged_is_fetched_anew(client: Client, done: Job, tmp_path: Path) -> None:
    found = client.results(done)[0]["artifacts"][0]
    (tmp_path / "file.part").write_bytes(b"other")
    download(client, found, tmp_path / "file")
    assert hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest() == found["sha256"]


def test_tars_of_many_items_are_downloaded(client: Client, done: Job, tmp_path: Path) -> None:
    results = client.results(done)
    names: list[str] = []
    for path in results.save_shards(tmp_path):
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert {f"{index:07d}.result.png" for index in range(3)} <= set(names)
    assert sum(shard["items"] for shard in results.shards()) == 3


def test_what_is_not_as_its_digest_says_is_not_kept(client: Client, done: Job, tmp_path: Path) -> None:
    artifact = client.results(done)[0]["artifacts"][0] | {"sha256": "0" * 64}
    with pytest.raises(DigestError, match="its digest differs"):
        download(client, artifact, tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_items_that_failed_have_a_row_and_no_picture(client: Client) -> None:
    job = client.cancel(client.submit(**inversion(steps=100_000)))
    results = client.results(client.wait(job, interval=0.05))
    assert results.images() == []
    assert list(results.dataframe()["state"]) == ["cancelled"] * 3


def test_calls_that_run_side_by_side_answer_in_order() -> None:
    assert list(parallel(lambda n: n * n, range(100))) == [n * n for n in range(100)]


def test_a_call_that_fails_ends_the_rest() -> None:
    with pytest.raises(ZeroDivisionError):
        list(parallel(lambda n: 1 // n, range(100)))


@pytest.mark.parametrize("data", [b"", b"\x05\x00\x00\x00\x00\x00\x00\x00[1,2]", b"PK\x03\x04" * 10])
def test_what_is_no_file_of_tensors_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="is no safetensors file"):
        tensors(data)
