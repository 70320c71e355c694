"""The smoke test of a loaded network, on the shipped networks with their normalisation wrecked."""

import json
from math import comb

import pytest
import torch
from torch import Tensor

from service.settings import Settings
from tests.engine.networks import pixels, small
from workers.engine import checkpoints, datasets, layers, models
from workers.engine.inspection import inspect, sign_test

ASSETS = Settings.model_fields["assets_dir"].default
IMAGES = 80

WRECKS = {
    "missing": ([0.0] * 3, [1.0] * 3),
    "twice": ([m + s * m for m, s in zip(models.CIFAR_MEAN, models.CIFAR_STD, strict=True)],
              [s * s for s in models.CIFAR_STD]),
    "bytes": ([0.0] * 3, [1 / 255] * 3),
}  # fmt: skip


@pytest.fixture(scope="module")
def sample() -> tuple[Tensor, Tensor]:
    images = datasets.load_npz(ASSETS / "datasets/cifar10-sample/images.npz")
    return datasets.to_float(images.pixels[:IMAGES]), images.labels[:IMAGES]


def shipped(name: str) -> models.Network:
    folder = ASSETS / "models" / name
    card = json.loads((folder / "card.json").read_text())
    matched = checkpoints.match(checkpoints.read(folder / "model.safetensors"), card["architecture"])
    assert models.digest(matched.state) == card["digest"]
    return models.load(card["architecture"], matched.state)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10-robust", "cifar10-standard"])
def test_a_shipped_network_passes_and_is_described(name: str, sample: tuple[Tensor, Tensor]) -> None:
    network, (x, labels) = shipped(name), sample
    report = inspect(network, x, labels)
    assert report.error is None
    assert report.accuracy == (network(x).argmax(dim=1) == labels).double().mean().item() > 0.6
    assert (report.features, report.classes, report.parameters) == (192, 10, 682_018)
    assert report.layers == layers.shapes(network, 32)
    assert report.predicted_classes == 10
    assert "CIFAR-10's constants" not in [a.name for a in report.alternatives], "they are its own"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10-robust", "cifar10-standard"])
@pytest.mark.parametrize("wreck", WRECKS)
def test_a_wrong_normalisation_is_an_error_that_names_a_right_one(
    name: str, wreck: str, sample: tuple[Tensor, Tensor]
) -> None:
    network, (x, labels) = shipped(name), sample
    right = (network(x).argmax(dim=1) == labels).double().mean().item()
    network.set_normalisation(*WRECKS[wreck])
    report = inspect(network, x, labels)
    assert report.error is not None
    best = max(report.alternatives, key=lambda a: a.accuracy)
    assert best.name in ("CIFAR-10's constants", "ImageNet's constants")  # nearly equal
    assert f"{best.accuracy:.1%} with mean [{', '.join(f'{m:.4g}' for m in best.mean)}]" in report.error
    (cifar,) = (a for a in report.alternatives if a.name == "CIFAR-10's constants")
    assert cifar.accuracy == pytest.approx(right, abs=1 / IMAGES)


@pytest.mark.slow
def test_a_network_that_wants_blue_first_is_found_out(sample: tuple[Tensor, Tensor]) -> None:
    network, (x, labels) = shipped("cifar10-standard"), sample
    right = (network(x).argmax(dim=1) == labels).double().mean().item()
    network.get_parameter("conv.weight").copy_(network.get_parameter("conv.weight").flip(1))
    report = inspect(network, x, labels)
    assert "first layer's input channels reversed (its own constants, BGR" in str(report.error)
    assert report.alternatives[0].accuracy == pytest.approx(right, abs=1 / IMAGES)


@pytest.mark.slow
def test_constants_that_are_nearly_right_are_no_error(sample: tuple[Tensor, Tensor]) -> None:
    network = shipped("cifar10-standard")
    network.set_normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert inspect(network, *sample).error is None


def test_inspecting_leaves_the_network_as_it_was() -> None:
    network = small()
    before = models.digest(network.state_dict())
    inspect(network, pixels(0, 4), torch.tensor([0, 1, 2, 3]))
    assert models.digest(network.state_dict()) == before


def test_the_alternatives_are_what_the_network_says_under_their_constants() -> None:
    network, x, labels = small(), pixels(1, 40), torch.arange(40) % 5
    report = inspect(network, x, labels)
    for a in report.alternatives:
        network.set_normalisation(a.mean, a.std)
        other = small()
        other.load_state_dict(network.state_dict())
        if a.bgr:
            other.conv.weight.copy_(network.conv.weight.flip(1))
        right = (other(x).argmax(dim=1) == labels).double().mean().item()
        assert a.accuracy == pytest.approx(right, abs=1.01 / 40), a.name


def test_without_labels_nothing_is_said_of_accuracy() -> None:
    report = inspect(small(), pixels(2, 30))
    assert (report.accuracy, report.alternatives) == (None, ())
    assert report.features == 8


def test_logits_that_are_not_finite_are_an_error() -> None:
    network = small()
    network.linear.weight[0, 0] = torch.inf
    error = inspect(network, pixels(3, 5), torch.tensor([0, 1, 2, 3, 4])).error
    assert error == "logits of 5 of 5 images are not finite"


@pytest.mark.parametrize("labels", [None, torch.arange(30) % 5], ids=["no labels", "labels"])
def test_a_network_that_always_says_the_same_is_an_error(labels: Tensor | None) -> None:
    network = small()
    network.linear.bias[3] = 1e4
    assert inspect(network, pixels(4, 30), labels).error == "all 30 images are put into class 3"


def test_images_of_one_class_may_all_be_put_into_it() -> None:
    network = small()
    network.linear.bias[3] = 1e4
    assert inspect(network, pixels(4, 30), torch.full([30], 3)).error is None


def test_labels_that_the_network_does_not_have_are_an_error() -> None:
    error = inspect(small(), pixels(5, 3), torch.tensor([0, 5, 2])).error
    assert error == "labels go from 0 to 5; the network tells 5 classes apart"


def test_the_sign_test_is_the_binomial_tail() -> None:
    assert sign_test(0, 0) == 1
    assert sign_test(7, 0) == 1 / 128
    assert sign_test(8, 2) == (comb(10, 2) + comb(10, 1) + 1) / 1024
    assert sign_test(0, 5) == 1


@pytest.mark.parametrize(
    ("x", "labels", "error"),
    [
        (torch.zeros(0, 3, 12, 12), None, "expected one or more"),
        (torch.zeros(1, 3, 12, 10), None, "size, size"),
        (torch.full((1, 3, 12, 12), 2.0), None, r"expected pixels in \[0, 1\]"),
        (torch.full((1, 3, 12, 12), torch.nan), None, r"expected pixels in \[0, 1\]"),
        (torch.zeros(2, 3, 12, 12), torch.tensor([1]), "one for each of 2 images"),
    ],
)
def test_a_sample_that_is_no_sample_is_refused(x: Tensor, labels: Tensor | None, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        inspect(small(), x, labels)


def test_a_network_in_train_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="train mode"):
        inspect(small().train(), pixels(6, 1))
