"""Every kind of study on the embedded service, against the networks themselves."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from service.catalog import Catalog
from service.client import Client
from service.settings import Settings
from tests.workers.conftest import Run
from workers.engine import layers
from workers.engine.models import Network
from workers.runtime import ModelStore

CATALOG = Catalog(Settings().assets_dir)
STORE = ModelStore(CATALOG, torch.device("cpu"))
Tensors = Callable[[dict[str, Any]], dict[str, Tensor]]


def network(name: str = "cifar10-robust") -> Network:
    return STORE.get(name, CATALOG.models[name].digest)


def sample(*indices: int) -> dict[str, Any]:
    return {"source": "dataset", "dataset": "cifar10-sample", "indices": list(indices)}


def pixels(index: int) -> Tensor:
    image = torch.from_numpy(np.array(CATALOG.datasets["cifar10-sample"].image(index)))
    return image.permute(2, 0, 1).float() / 255


@torch.no_grad()
def represent(x: Tensor) -> Tensor:
    return network().represent(x[None])[0]


def test_a_sweep_keeps_every_result_within_its_radius(run: Run) -> None:
    items = run("radius_sweep", targets=sample(0, 1), start=sample(2), radii=[0.25, 1.0, 4.0], steps=40)
    assert [(i["settings"]["pair"], i["settings"]["eps"]) for i in items] == [
        (pair, eps) for pair in (0, 1) for eps in (0.25, 1.0, 4.0)
    ]
    for item in items:
        assert item["metrics"]["pixel_l2_moved"] <= item["settings"]["eps"] * (1 + 1e-4)


def test_a_wider_radius_comes_nearer(run: Run) -> None:
    items = run("radius_sweep", targets=sample(0, 1), start=sample(2), radii=[0.25, 1.0, 4.0], steps=60)
    for pair in (items[:3], items[3:]):
        distances = [item["metrics"]["relative_distance"] for item in pair]
        assert distances == sorted(distances, reverse=True)
        assert distances[0] < pair[0]["metrics"]["start_relative_distance"]


def test_an_interpolation_aims_between_the_ends_from_the_pixel_blend(run: Run, tensors: Tensors) -> None:
    first, second = pixels(0), pixels(1)
    for item in run("interpolation", first=sample(0), second=sample(1), lambdas=[0.0, 0.3, 1.0]):
        weight = item["settings"]["lambda"]
        found = tensors(item)
        torch.testing.assert_close(found["start"], weight * first + (1 - weight) * second)
        aim = weight * represent(first) + (1 - weight) * represent(second)
        torch.testing.assert_close(found["target_representation"], aim, rtol=1e-4, atol=1e-5)
        assert item["metrics"]["relative_distance"] <= item["metrics"]["start_relative_distance"] + 1e-6
    assert item["metrics"]["blend_ghosting"] == pytest.approx(0, abs=1e-6)  # the last item is an end


def test_a_visualization_raises_its_coordinate_from_every_start(run: Run, tensors: Tensors) -> None:
    starts = [{"source": "noise"}, {"source": "gray"}, sample(3, 4)]
    items = run("feature_visualization", coordinates=[5, 90], starts=starts)
    assert [(i["settings"]["row"], i["target"]["terms"]) for i in items] == [
        (row, [[c, 1.0]]) for row in range(4) for c in (5, 90)
    ]
    for item in items:
        coordinate = item["target"]["terms"][0][0]
        found = tensors(item)
        assert item["metrics"]["activation"] == pytest.approx(float(represent(found["image"])[coordinate]), abs=1e-4)
        assert item["metrics"]["activation"] > item["metrics"]["start_activation"]
        seen = int(network()(found["image"][None]).argmax())
        assert item["metrics"]["prediction"] == CATALOG.models["cifar10-robust"].classes[seen]


def test_rows_share_their_start_across_coordinates(run: Run, tensors: Tensors) -> None:
    noise = {"source": "noise"}
    items = run("feature_visualization", coordinates=[5, 90], starts=[noise, noise], steps=1)
    starts = [tensors(item)["start"] for item in items]
    assert torch.equal(starts[0], starts[1])
    assert torch.equal(starts[2], starts[3])
    assert not torch.equal(starts[0], starts[2])


def test_a_combination_and_a_class_logit_are_maximised(run: Run, tensors: Tensors) -> None:
    terms = [{"coordinate": 3, "weight": 1.0}, {"coordinate": 8, "weight": -0.5}]
    (both,) = run("feature_visualization", combinations=[terms])
    r = represent(tensors(both)["image"])
    assert both["metrics"]["activation"] == pytest.approx(float(r[3] - 0.5 * r[8]), abs=1e-4)
    (logit,) = run("feature_visualization", layer="logits", coordinates=[7], steps=60)
    assert logit["target"]["label"] == "class horse"
    assert logit["metrics"]["prediction"] == "horse"


@pytest.mark.parametrize("pool", ["mean", "flatten"])
def test_any_layers_coordinate_is_maximised(run: Run, tensors: Tensors, pool: Any) -> None:
    (item,) = run("feature_visualization", layer="blocks.1", pool=pool, coordinates=[17])
    function = layers.function(network(), "blocks.1", pool=pool)
    now = float(function(tensors(item)["image"][None])[0, 17])
    assert item["metrics"]["activation"] == pytest.approx(now, rel=1e-3)
    assert now > item["metrics"]["start_activation"]


def test_top_images_are_the_data_sets_extremes(run: Run, client: Client) -> None:
    top = {"dataset": "cifar10-sample", "k": 2}
    (item,) = run("feature_visualization", coordinates=[40], starts=[{"source": "gray"}], top_images=top)
    with torch.no_grad():
        r = network().represent(torch.stack([pixels(i) for i in range(400)]))[:, 40]
    order = r.argsort(descending=True).tolist()
    assert item["metrics"]["top_indices"] == order[:2]
    assert item["metrics"]["bottom_activations"] == pytest.approx(sorted(r.tolist())[:2], abs=1e-5)
    shown = np.array(Image.open(io.BytesIO(client.artifact(item, "top-1.png"))))
    assert np.array_equal(shown, CATALOG.datasets["cifar10-sample"].image(order[0]))


def test_a_manipulation_stops_each_image_as_soon_as_its_coordinate_exceeds_all(run: Run, tensors: Tensors) -> None:
    items = run("feature_manipulation", images=sample(0, 1, 5), coordinates=[97], steps=400)
    taken = [item["metrics"]["steps_taken"] for item in items]
    assert len(set(taken)) > 1
    for item in items:
        found = tensors(item)
        assert item["metrics"]["reached"]
        assert int(represent(found["image"]).argmax()) == 97
        assert (found["grad_norm"][: item["metrics"]["steps_taken"]] > 0).all()
        assert (found["grad_norm"][item["metrics"]["steps_taken"] :] == 0).all()
        assert found["activation"].max() == found["activation"][-1]


def test_a_manipulation_stops_at_a_threshold_or_takes_every_step(run: Run) -> None:
    body: dict[str, Any] = {"images": sample(0, 1), "coordinates": [97]}
    for item in run("feature_manipulation", **body, until="threshold", threshold=0.3, steps=200):
        assert 0.3 <= item["metrics"]["activation"] < 0.4
    for item in run("feature_manipulation", **body, until="steps", steps=7):
        assert item["metrics"]["steps_taken"] == 7
        assert "reached" not in item["metrics"]


def test_restarts_keep_the_least_loss(run: Run, tensors: Tensors) -> None:
    body: dict[str, Any] = {"targets": sample(0, 1), "steps": 15}
    (several, _), (alone, _) = run("inversion", **body, restarts=4), run("inversion", **body)
    assert several["metrics"]["relative_distance"] <= alone["metrics"]["relative_distance"] + 1e-6
    assert tensors(several)["loss"].shape == (16,)


def test_a_random_start_lies_on_the_sphere(run: Run, tensors: Tensors) -> None:
    body: dict[str, Any] = {"targets": sample(0), "start": {"source": "gray"}, "eps": 2.0, "random_start": True}
    (item,) = run("inversion", **body, steps=1, step_size=1e-6, frames=2)
    first = tensors(item)["frames"][0] / 255
    assert float((first - 0.5).norm()) == pytest.approx(2.0, rel=0.01)
    many = run("inversion", **body, restarts=3)
    assert many[0]["metrics"]["pixel_l2_moved"] <= 2.0 * (1 + 1e-4)


def test_the_animation_ends_at_the_result(run: Run, client: Client, tensors: Tensors) -> None:
    (item,) = run("inversion", targets=sample(0), frames=5)
    found = tensors(item)
    assert found["frame_steps"].tolist() == [0, 5, 10, 15, 20]
    result = np.array(Image.open(io.BytesIO(client.artifact(item, "result.png"))))
    assert np.array_equal(found["frames"][-1].permute(1, 2, 0).numpy(), result)
    with Image.open(io.BytesIO(client.artifact(item, "path.gif"))) as animation:
        assert animation.n_frames == 5  # type: ignore[attr-defined]


def test_an_uploaded_tensor_is_a_start_to_the_last_bit(run: Run, client: Client, tensors: Tensors) -> None:
    start = np.random.default_rng(0).random((3, 32, 32)).astype(np.float32)
    file = io.BytesIO()
    np.save(file, start)
    tensor = {"source": "images", "images": [client.upload(file.getvalue())]}
    (item,) = run("inversion", targets=sample(0), start=tensor)
    assert np.array_equal(tensors(item)["start"].numpy(), start)


def test_patterns_are_targets_and_the_judge_sees_for_itself(run: Run, tensors: Tensors) -> None:
    items = run("inversion", targets={"source": "patterns", "patterns": ["stripes", "stripes", "text"]})
    seen = [tensors(item)["target"] for item in items]
    assert not torch.equal(seen[0], seen[1])
    assert [item["metrics"]["target_class_from"] for item in items] == ["judge"] * 3


@pytest.mark.parametrize("parametrization", ["pixel", "fourier"])
def test_the_regularized_baseline_raises_the_coordinate_too(run: Run, parametrization: str) -> None:
    settings = {"parametrization": parametrization, "decorrelate": parametrization == "fourier"}
    (item,) = run("feature_visualization", model="cifar10-standard", coordinates=[5], regularization=settings, steps=40)
    assert item["metrics"]["activation"] > 2 * item["metrics"]["start_activation"]
