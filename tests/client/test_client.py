"""The client, against a running service: what it sends, how it waits, what it does where the network fails."""

import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from service.client import ApiError, Client, UsageError
from service.remote.events import pauses
from service.schemas import DatasetImages
from service.studies import Inversion
from tests.client.wire import STREAM, answer, server
from tests.fixtures import inversion
from tests.service.test_images import encode, noise

pytestmark = pytest.mark.slow  # a service that computes
SHORT = {"kind": "inversion", "model": "cifar10-robust", "preset": "cifar", "steps": 5}
CIFAR = {"source": "dataset", "dataset": "cifar10-sample", "indices": [0]}
PIXELS = np.random.default_rng(0).random((3, 32, 32), np.float32)


def targets(client: Client, job: dict[str, Any]) -> list[str]:
    return [item["target"]["image"] for item in client.items(job)]


def stored(client: Client, image_id: str) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = np.load(io.BytesIO(client.request("GET", f"/v1/images/{image_id}").content))
    return array


def test_importing_the_client_loads_no_torch_no_pandas_and_nothing_of_the_service() -> None:
    heavy = {"torch", "pandas", "numpy", "PIL", "rich", "sqlalchemy", "fastapi", "pydantic", "celery"}
    code = "import sys, service.client; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert heavy & set(done.stdout.split()) == set()


def test_a_request_of_the_services_own_is_submitted_with_all_that_it_says(client: Client) -> None:
    request = Inversion(
        kind="inversion", model="cifar10-robust", preset="cifar", steps=5,
        targets=DatasetImages(source="dataset", dataset="cifar10-sample", indices=[3]), priority="high",
    )  # fmt: skip
    job = client.submit(request, idempotency_key="typed")
    assert (job["parameters"]["steps"], job["items"]["total"]) == (5, 1)
    assert client.submit(request, idempotency_key="typed")["id"] == job["id"]
    with pytest.raises(ApiError):  # another priority is another request
        client.submit(request, idempotency_key="typed", priority="low")


def test_a_request_of_the_services_own_is_checked_before_it_is_sent() -> None:
    with pytest.raises(ValidationError, match="steps"):
        Inversion(kind="inversion", model="m", steps=-1, targets=DatasetImages.model_validate(CIFAR))


@pytest.mark.parametrize(
    "made",
    [PIXELS, PIXELS.transpose(1, 2, 0), torch.from_numpy(PIXELS), torch.from_numpy(PIXELS).requires_grad_()],
    ids=["array", "channels last", "tensor", "with gradient"],
)  # fmt: skip
def test_an_array_or_tensor_is_uploaded_exactly(client: Client, made: Any) -> None:
    assert np.array_equal(stored(client, client.upload(made)), PIXELS)


def test_doubles_stay_doubles_and_halves_are_widened(client: Client) -> None:
    assert stored(client, client.upload(PIXELS.astype(float) / 3)).dtype == np.float64
    half = torch.from_numpy(PIXELS).bfloat16()
    assert np.array_equal(stored(client, client.upload(half)), half.float().numpy())


def test_a_picture_is_the_same_as_a_file_as_bytes_as_pil_and_as_uint8(client: Client, tmp_path: Path) -> None:
    image = noise(size=(32, 32))
    path = tmp_path / "a.png"
    image.save(path)
    ids = [client.upload(each) for each in (path, str(path), path.read_bytes())]
    assert len(set(ids)) == 1
    for other in (image, np.asarray(image)):
        again = Image.open(io.BytesIO(client.request("GET", f"/v1/images/{client.upload(other)}").content))
        assert np.array_equal(np.asarray(again), np.asarray(image))


@pytest.mark.parametrize(("made", "said"), [(PIXELS[0], "is an array [32, 32]"), (PIXELS.astype(int), "int64")])
def test_an_array_that_is_no_picture_is_refused_before_it_is_sent(client: Client, made: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        client.upload(made)
    assert said in str(caught.value)


def test_a_file_that_the_api_refuses_is_named(client: Client, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ApiError) as caught:
        client.submit(SHORT, targets=tmp_path)
    assert caught.value.errors[0][0] == str(tmp_path / "bad.png")


def test_images_in_a_request_are_uploaded_and_named_in_order(client: Client, tmp_path: Path) -> None:
    pictures = [noise(size=(32, 32)), Image.new("RGB", (32, 32), "red")]
    for name, picture in zip("ab", pictures, strict=True):
        picture.save(tmp_path / f"{name}.png")
    ids = [client.upload(tmp_path / f"{name}.png") for name in "ab"]
    assert targets(client, client.submit(SHORT, targets=tmp_path)) == ids
    assert targets(client, client.submit(SHORT, targets=[str(tmp_path / "b.png"), tmp_path / "a.png"])) == ids[::-1]
    some = {"source": "images", "images": [ids[1], tmp_path / "a.png"]}
    assert targets(client, client.submit(SHORT, targets=some)) == ids[::-1]
    batch = np.stack([PIXELS, PIXELS / 2])
    assert targets(client, client.submit(SHORT, targets=batch)) == client.upload_all(list(batch))


def test_sources_of_several_kinds_follow_one_another(client: Client) -> None:
    job = client.submit(SHORT, targets=["cifar10-sample:4-5", encode(noise(size=(32, 32))), CIFAR])
    sources = [(item["target"]["source"], item["target"].get("index")) for item in client.items(job)]
    assert sources == [("dataset", 4), ("dataset", 5), ("image", None), ("dataset", 0)]


def test_what_names_no_image_is_refused_by_field(client: Client) -> None:
    with pytest.raises(UsageError, match=r"targets: nowhere\.png is no file; allowed: DATASET:0-7,12"):
        client.submit(SHORT, targets="nowhere.png")


@pytest.mark.parametrize("given", [[], [5], 5.5, [["cat.png"]], {1}])
def test_what_can_be_a_target_is_said_of_what_is_none(client: Client, given: Any) -> None:
    with pytest.raises(UsageError, match=r"targets: .+ names no image; allowed: a source \(a dict\), a string or path"):
        client.submit(SHORT, targets=given)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "localhost", "", "ftp://host", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"is no address of a service; allowed: http://HOST:PORT"):
        Client(url)


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found"])
def test_another_server_than_robustreps_is_told_in_one_line(status: str) -> None:
    page = answer(b"<html>\n<p>Hello</p>\n</html>", status).replace(b"application/json", b"text/html; charset=utf-8")
    with server(page) as (url, _), Client(url) as client, pytest.raises(ApiError) as caught:
        client.job("job_1")
    assert str(caught.value).endswith(f": {url}/v1/jobs/job_1 is not answered as robustreps would (text/html)")


def test_a_wait_shows_every_poll_and_ends_with_the_job(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[dict[str, Any]] = []
    job = client.wait(client.submit(**inversion(steps=30)), interval=0.05, on_poll=seen.append, progress=True)
    assert job == seen[-1]
    assert "inversion succeeded, 3 of 3 items" in capsys.readouterr().out


def test_a_wait_ends_after_its_timeout(client: Client) -> None:
    job = client.submit(**inversion(steps=100_000))
    with pytest.raises(TimeoutError, match=f"job {job['id']} is still"):
        client.wait(job, timeout=0.5)
    client.cancel(job)


def test_several_jobs_are_followed_until_all_are_over(client: Client) -> None:
    jobs = [client.submit(**inversion(steps=steps))["id"] for steps in (5, 50)]
    last = {job["id"]: job["state"] for job in client.follow(*jobs, interval=0.05)}
    assert last == dict.fromkeys(jobs, "succeeded")


def test_polls_come_seldom_once_it_takes_long() -> None:
    paces = pauses(0.5)
    assert next(paces) == 0.5
    time.sleep(0.3)
    assert next(pauses(0.01)) == 0.01
    assert next(paces) == 0.5


def test_a_call_that_may_be_sent_twice_is_sent_again_when_the_answer_is_lost() -> None:
    with server(b"", answer()) as (url, seen), Client(url) as client:
        assert client.job("job_1") == {"id": "job_1"}
    assert len(seen) == 2


def test_a_job_whose_answer_is_lost_is_sent_again_under_the_same_key() -> None:
    with server(b"", answer()) as (url, seen), Client(url) as client:
        client.submit(SHORT)
    keys = [line for sent in seen for line in sent.split(b"\r\n") if line.lower().startswith(b"idempotency-key")]
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_call_that_must_not_be_sent_twice_is_not() -> None:
    with server(b"") as (url, seen), Client(url) as client, pytest.raises(httpx2.TransportError):
        client.retry("job_1")
    assert len(seen) == 1


def test_a_poll_asks_only_for_what_changed() -> None:
    first = answer(b'{"id": "job_1", "state": "running"}', headers='ETag: "a"\r\n')
    last = answer(b'{"id": "job_1", "state": "succeeded"}', headers='ETag: "b"\r\n')
    with server(first, answer(b"", "304 Not Modified"), last) as (url, seen), Client(url) as client:
        states = [job["state"] for job in client.follow("job_1", interval=0.01)]
    assert states == ["running", "running", "succeeded"]
    assert [b'if-none-match: "a"' in sent.lower() for sent in seen] == [False, True, True]


def test_an_event_stream_that_breaks_is_taken_up_where_it_broke() -> None:
    broken = STREAM + 'id: 7\nevent: state\ndata: {"state": "running"}\n\n: ping\n\nid: 8\nevent: state\ndata: {"sta'
    rest = STREAM + 'id: 8\nevent: state\ndata: {"state": "succeeded"}\n\nevent: end\ndata: {}\n\n'
    busy = answer(b"{}", "503 Service Unavailable", "Retry-After: 0\r\n")
    with server(broken.encode(), b"", busy, rest.encode()) as (url, seen), Client(url) as client:
        found = list(client.events("job_1"))
    assert [(event.event, event.data.get("state")) for event in found] == [
        ("state", "running"), ("state", "succeeded"), ("end", None),
    ]  # fmt: skip
    assert [b"last-event-id: 7" in sent.lower() for sent in seen] == [False, True, True, True]
