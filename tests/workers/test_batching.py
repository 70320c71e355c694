"""What a job may ask of its searches: the same bits whatever shares the batch, other solvers, early ends, precision."""

from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor

from service.catalog import Catalog
from service.client import Client
from service.settings import Settings
from service.studies import StudyParameters
from tests.workers.conftest import Items, Run
from workers.runtime import ModelStore

pytestmark = pytest.mark.slow
Tensors = Callable[[dict[str, Any]], dict[str, Tensor]]


def sample(*indices: int) -> dict[str, Any]:
    return {"source": "dataset", "dataset": "cifar10-sample", "indices": list(indices)}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def distances(items: Items) -> list[float]:
    return [item["metrics"]["relative_distance"] for item in items]


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "inversion", "targets": [7, 8, 9, 10, 11], "solver": "momentum", "schedule": "cosine"},
        {"kind": "inversion", "targets": [7, 8, 9, 10, 11], "restarts": 2, "best": True, "precision": "bf16"},
        {"kind": "feature_manipulation", "images": [7, 8, 9, 10, 11], "coordinates": [5], "steps": 60},
    ],
    ids=["momentum", "restarts in bf16", "until it shows"],
)
def test_a_deterministic_item_is_bitwise_the_same_alone_and_among_others(
    run: Run, client: Client, tensors: Tensors, body: dict[str, Any]
) -> None:
    field = "targets" if "targets" in body else "images"
    body = {"steps": 30, "deterministic": True} | body
    alone = run(**body | {field: sample(body[field][0])})
    other: dict[str, Any] = {"kind": "inversion", "model": "cifar10-robust", "preset": "cifar", "steps": 200,
                             "targets": sample(*range(20)), "deterministic": True}  # fmt: skip
    other |= {name: body[name] for name in ("solver", "precision") if name in body}
    beside = client.submit(**other)  # its rows are in the same batches, or hold the device between them
    among = run(**body | {field: sample(*body[field])})
    client.request("POST", f"/v1/jobs/{beside['id']}/cancel")
    assert equal(tensors(alone[0]), tensors(among[0]))
    assert alone[0]["metrics"] == among[0]["metrics"]
    assert [item["provenance"]["bucket"] for item in (*alone, *among)] == [16] * 6


def test_a_deterministic_regularized_item_is_bitwise_the_same_among_others(run: Run, tensors: Tensors) -> None:
    body = {"kind": "feature_visualization", "regularization": {}, "deterministic": True, "steps": 12}
    (alone,), among = run(coordinates=[5], **body), run(coordinates=[5, 6, 7], **body)
    assert equal(tensors(alone), tensors(among[0]))


def test_momentum_over_a_falling_step_comes_nearer_in_as_many_steps(run: Run) -> None:
    body = {"kind": "inversion", "targets": sample(0, 1, 2, 3), "steps": 100}
    plain, fast = run(**body), run(**body, solver="momentum", schedule="cosine", step_size=1.0)
    assert median(distances(fast)) < 0.7 * median(distances(plain))


def test_bf16_is_measured_in_fp32_and_comes_as_near(run: Run, tensors: Tensors) -> None:
    body = {"kind": "inversion", "targets": sample(0, 1, 2, 3), "steps": 60}
    exact, short = run(**body), run(**body, precision="bf16")
    assert median(distances(short)) == pytest.approx(median(distances(exact)), rel=0.05)
    found = tensors(short[0])
    r, t = found["representation"], found["target_representation"]
    assert float((r - t).norm() / t.norm()) == pytest.approx(distances(short)[0], rel=1e-5)
    assert torch.equal(t, tensors(exact[0])["target_representation"])
    assert {item["provenance"]["precision"] for item in short} == {"bf16"}


def test_a_store_answers_the_precision_that_is_asked_whatever_the_job_named() -> None:
    catalog = Catalog(Settings().assets_dir)
    card = catalog.models["cifar10-robust"]
    store = ModelStore(catalog, torch.device("cpu"))
    network = store.get(card.name, card.digest)
    p = StudyParameters.model_validate(
        {"kind": "inversion", "steps": 1, "model": card.name, "model_digest": card.digest, "judge": None,
         "judge_digest": None, "preset": "fast", "eps": 1.0, "step_size": 1.0, "best": False, "identity_relu": False,
         "resize": "refuse", "seed": 0, "precision": "bf16"}
    )  # fmt: skip
    x = torch.rand(2, 3, 32, 32)
    expected = network.represent(x)
    torch.testing.assert_close(store.descent(p, network, "fp32")(x), expected, rtol=1e-4, atol=1e-5)
    assert (store.descent(p, network, "bf16")(x) - expected).abs().max() > 1e-4


def test_tf32_is_fp32_on_a_device_that_has_none_and_says_so(run: Run) -> None:
    (item,) = run(kind="inversion", targets=sample(0), precision="tf32")
    assert item["provenance"]["precision"] == "fp32" or item["provenance"]["device"] != "cpu x86_64"


def test_an_item_ends_once_it_is_near_enough_and_its_neighbour_goes_on(run: Run, tensors: Tensors) -> None:
    body = {"kind": "inversion", "targets": sample(0, 1, 2, 3), "steps": 80}
    full = run(**body)
    near = median(distances(full))
    for before, item in zip(full, run(**body, stop_distance=near), strict=True):
        if before["metrics"]["relative_distance"] <= near * 0.99:
            assert item["metrics"]["steps_taken"] < 80
            assert item["metrics"]["relative_distance"] == pytest.approx(near, rel=0.1)
        trace = tensors(item)["relative_distance"]
        assert len(trace) == item["metrics"]["steps_taken"] + 1
        assert (trace[:-1] > near).all()


def test_an_item_ends_where_its_least_loss_no_longer_falls(run: Run, tensors: Tensors) -> None:
    for item in run(kind="inversion", targets=sample(0, 1), steps=400, step_size=2.0, patience=20):
        loss = tensors(item)["loss"]
        assert item["metrics"]["steps_taken"] == len(loss) - 1 < 400
        assert loss[-20:].min() > 0.998 * loss[:-20].min()


def test_an_animation_of_an_item_that_ends_early_ends_with_its_result(run: Run, tensors: Tensors) -> None:
    (item,) = run(kind="inversion", targets=sample(0), steps=400, step_size=2.0, patience=20, frames=9)
    found = tensors(item)
    assert found["frame_steps"][-1] == item["metrics"]["steps_taken"] == len(found["loss"]) - 1
    assert torch.equal(found["frames"][-1], (found["image"] * 255).round().byte())


def test_jobs_of_every_priority_end(client: Client) -> None:
    jobs = [
        client.submit(kind="inversion", model="cifar10-robust", preset="cifar", targets=sample(*range(12)), steps=30,
                      priority=priority)
        for priority in ("low", "normal", "high", "low")
    ]  # fmt: skip
    assert [client.wait(job["id"], timeout=240, interval=0.1)["state"] for job in jobs] == ["succeeded"] * 4
