"""The inversion job on the embedded service: what it stores is what the engine computes."""

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load
from skimage.metrics import structural_similarity
from torch import Tensor

from service.catalog import Catalog
from service.settings import Settings
from tests.fixtures import LiveService, inversion
from tests.service.test_images import encode, noise
from workers.engine import objectives
from workers.engine.models import Network
from workers.engine.pgd import pgd
from workers.runtime import Hopeless, ModelStore

CATALOG = Catalog(Settings().assets_dir)


def network(name: str) -> Network:
    return ModelStore(CATALOG, torch.device("cpu")).get(name, CATALOG.models[name].digest)


def run(service: LiveService, **changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    job = service.wait(service.submit(inversion(**changes))["id"])
    return job, list(service.client.items(job["id"]))


def tensors(service: LiveService, item: dict[str, Any]) -> dict[str, Tensor]:
    return load(service.client.artifact(item, "result.safetensors"))


def test_a_job_ends_with_pictures_tensors_a_trace_and_metrics(live_service: LiveService) -> None:
    job, items = run(live_service)
    assert job["state"] == "succeeded"
    assert [step for step, _ in job["progress"]["curve"]] == [0, 10, 20]
    for item in items:
        assert {a["name"] for a in item["artifacts"]} == {
            "target.png", "start.png", "result.png", "result.safetensors", "trace.json",
        }  # fmt: skip
        found, metrics = tensors(live_service, item), item["metrics"]
        pixels = np.array(CATALOG.datasets["cifar10-sample"].image(item["index"]))
        target_png = np.array(Image.open(io.BytesIO(live_service.client.artifact(item, "target.png"))))
        assert np.array_equal(target_png, pixels)
        result_png = np.array(Image.open(io.BytesIO(live_service.client.artifact(item, "result.png"))))
        exact = found["image"].permute(1, 2, 0).numpy()
        assert np.abs(result_png / 255 - exact).max() <= 0.5 / 255 + 1e-6
        r = network("cifar10-robust").represent(found["image"][None])[0].double()
        t = network("cifar10-robust").represent(found["target"][None])[0].double()
        assert metrics["relative_distance"] == pytest.approx(float((r - t).norm() / t.norm()), rel=1e-4)
        assert metrics["relative_distance"] < metrics["start_relative_distance"]
        assert metrics["pixel_l2"] == pytest.approx(float((found["image"] - found["target"]).norm()), rel=1e-5)
        ssim = structural_similarity(
            exact.astype(float), pixels / 255, channel_axis=2, data_range=1,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        assert metrics["ssim"] == pytest.approx(ssim, abs=1e-4)
        judge = network("cifar10-judge")(found["image"][None]).argmax().item()
        classes = CATALOG.models["cifar10-judge"].classes
        assert metrics["judge_prediction"] == classes[int(judge)]
        assert metrics["judge_agrees"] == (classes[int(judge)] == item["target"]["label"])


def test_the_result_is_the_engines_for_the_same_item_alone(live_service: LiveService) -> None:
    _, items = run(live_service, steps=30)
    found = tensors(live_service, items[2])
    model = network("cifar10-robust")
    objective = objectives.inversion(model.represent(found["target"][None]))
    start = found["start"][None]
    x = pgd(model.represent, objective, start, start, 1000.0, 0.1, 30)
    assert (x[0] - found["image"]).abs().max() < 1e-3  # kernels may differ with the batch


def test_an_item_starts_from_its_own_noise_whatever_else_is_in_the_job(live_service: LiveService) -> None:
    _, many = run(live_service, steps=1)
    start = tensors(live_service, many[1])["start"]
    again = [tensors(live_service, item)["start"] for item in run(live_service, steps=1)[1]]
    other_seed = tensors(live_service, run(live_service, steps=1, seed=1)[1][1])["start"]
    assert torch.equal(start, again[1])
    assert not torch.equal(start, again[0])
    assert not torch.equal(start, other_seed)


def test_the_trace_has_every_step_and_its_summary_the_ends(live_service: LiveService) -> None:
    target = {"source": "dataset", "dataset": "cifar10-sample", "indices": [0]}
    _, items = run(live_service, steps=700, targets=target)
    found = tensors(live_service, items[0])
    assert found["loss"].shape == (701,)
    assert found["grad_norm"].shape == (700,)
    trace = json.loads(live_service.client.artifact(items[0], "trace.json"))
    assert (trace["step"][0], trace["step"][-1]) == (0, 700)
    assert len(trace["step"]) <= 512
    assert trace["grad_norm"][-1] is None
    assert trace["grad_norm"][0] == pytest.approx(found["grad_norm"][0].item())
    assert trace["relative_distance"][-1] == pytest.approx(items[0]["metrics"]["relative_distance"], rel=1e-3)
    assert trace["relative_distance"][0] == pytest.approx(items[0]["metrics"]["start_relative_distance"], rel=1e-3)


def test_a_radius_binds_and_the_result_says_how_it_came_about(live_service: LiveService, tmp_path: Path) -> None:
    start = {"source": "dataset", "dataset": "cifar10-sample", "indices": [7]}
    _, items = run(live_service, eps=0.5, start=start)
    for item in items:
        assert item["metrics"]["pixel_l2_moved"] == pytest.approx(0.5, rel=1e-3)
        provenance = item["provenance"]
        assert provenance["parameters"]["eps"] == 0.5
        assert provenance["parameters"]["identity_relu"] is False
        assert provenance["parameters"]["model_digest"] == CATALOG.models["cifar10-robust"].digest
        assert {"code_version", "torch_version", "device", "bucket", "precision"} <= provenance.keys()
    path = tmp_path / "result.safetensors"  # the same provenance travels inside the tensor file
    path.write_bytes(live_service.client.artifact(items[0], path.name))
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["provenance"]) == items[0]["provenance"]


def test_a_jobs_curve_ends_with_the_last_step_at_the_metric(live_service: LiveService) -> None:
    for beside in ({}, {"best": True}):
        job, items = run(live_service, steps=23, **beside)
        steps, values = zip(*job["progress"]["curve"], strict=True)
        assert steps == (0, 10, 20, 23)
        found = sorted(item["metrics"]["relative_distance"] for item in items)
        assert values[-1] == pytest.approx(found[1], rel=1e-3)


def test_notebook_and_paper_take_the_same_steps(live_service: LiveService) -> None:
    images = [
        tensors(live_service, run(live_service, preset=preset, steps=5)[1][0])["image"]
        for preset in ("paper", "notebook")
    ]
    assert (images[0] - images[1]).abs().max() < 1e-3


def test_an_uploaded_image_is_inverted_at_the_models_size(live_service: LiveService) -> None:
    image_id = live_service.client.upload(encode(noise(size=(50, 40)), "JPEG"))
    job, items = run(live_service, targets={"source": "images", "images": [image_id]}, judge="cifar10-robust")
    assert job["state"] == "succeeded"
    assert tensors(live_service, items[0])["target"].shape == (3, 32, 32)
    assert items[0]["metrics"]["target_class_from"] == "judge"


def test_an_item_whose_image_has_gone_fails_alone(live_service: LiveService, settings: Settings) -> None:
    kept, gone = (live_service.client.upload(encode(noise(size=(32, size)))) for size in (32, 33))
    (settings.data_dir / "objects" / "images" / gone.removeprefix("sha256:")).unlink()
    job, items = run(live_service, targets={"source": "images", "images": [kept, gone]})
    assert job["state"] == "partially_succeeded"
    assert [item["state"] for item in items] == ["succeeded", "failed"]
    assert items[1]["error"]["title"] == "Input cannot be read"


def test_a_running_job_stops_soon_after_it_is_cancelled(live_service: LiveService) -> None:
    job_id = live_service.submit(inversion(steps=50_000))["id"]
    while live_service.client.job(job_id)["progress"]["steps_done"] == 0:
        time.sleep(0.05)
    live_service.client.request("POST", f"/v1/jobs/{job_id}/cancel")
    assert live_service.wait(job_id)["state"] == "cancelled"
    done, _ = run(live_service)  # the worker is free again
    assert done["state"] == "succeeded"


def test_a_worker_refuses_a_model_of_another_digest() -> None:
    digest = CATALOG.models["cifar10-robust"].digest
    with pytest.raises(Hopeless, match="no model cifar10-robust with digest"):
        ModelStore(CATALOG, torch.device("cpu")).get("cifar10-robust", digest[::-1])
