"""Any layer as a function, against what a forward hook sees in a private copy of the network."""

import copy
import json
import threading
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor

from service.settings import Settings
from tests.engine.networks import pixels, small
from workers.assets import to_json
from workers.engine import layers
from workers.engine.models import Network, build, load

CARDS = sorted(Settings.model_fields["assets_dir"].default.glob("models/*/card.json"))


@pytest.fixture(scope="module")
def resnet() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return load("resnet18", build("resnet18", classes=5).state_dict())


def hooked(model: Network, layer: str, x: Tensor) -> Tensor:
    """What `layer` puts out, before later layers can change it in place."""
    theirs, kept = copy.deepcopy(model), list[Tensor]()
    theirs.get_submodule(layer).register_forward_hook(lambda *event: kept.append(event[-1].clone()))
    theirs(x)
    (y,) = kept
    return y


def gradient(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor | None = None) -> Tensor:
    x = x.clone().requires_grad_(True)
    y = f(x)
    (g,) = torch.autograd.grad(y, x, torch.ones_like(y) if v is None else v)
    return g


@pytest.mark.parametrize(
    "layer", [name for name in layers.shapes(small(), 12) if name not in ("penultimate", "logits")]
)
def test_every_layer_of_the_cifar_network_is_what_a_hook_sees(layer: str) -> None:
    model, x = small(), pixels(0, 3)
    assert torch.equal(layers.function(model, layer, pool="flatten")(x), hooked(model, layer, x).flatten(1))


@pytest.mark.parametrize(
    "layer",
    ["net.bn1", "net.relu", "net.layer1.0.bn1", "net.layer1.0.bn2", "net.layer3", "net.layer4.1.conv2", "net.layer4.1",
     "net.layer4", "net.avgpool", "net.fc"],
)  # fmt: skip
def test_a_layer_of_torchvisions_network_is_what_a_hook_sees_before_any_inplace_relu(
    resnet: Network, layer: str
) -> None:
    x = pixels(1, 2, 64)
    expected = hooked(resnet, layer, x)
    assert torch.equal(layers.function(resnet, layer, pool="flatten")(x), expected.flatten(1))
    assert layer not in ("net.bn1", "net.layer1.0.bn2", "net.layer4.1.conv2") or expected.min() < 0


def test_the_penultimate_layer_and_the_logits_are_the_networks_own() -> None:
    model, x = small(), pixels(2, 3)
    for pool in ("mean", "flatten"):
        assert torch.equal(layers.function(model, "penultimate", pool=pool)(x), model.represent(x))
        assert torch.equal(layers.function(model, "logits", pool=pool)(x), model(x))


def test_mean_pooling_averages_a_channel_over_positions() -> None:
    model, x = small(), pixels(3, 2)
    y, pooled = hooked(model, "blocks.0", x), layers.function(model, "blocks.0", pool="mean")(x)
    assert pooled.shape == (2, 6)
    torch.testing.assert_close(pooled[1, 4], torch.stack([y[1, 4, h, w] for h in range(12) for w in range(12)]).mean())


def test_flattening_counts_positions_within_a_channel() -> None:
    model, x = small(), pixels(4, 2)
    y, flat = hooked(model, "blocks.1", x), layers.function(model, "blocks.1", pool="flatten")(x)
    _, channels, height, width = y.shape
    assert flat.shape == (2, channels * height * width)
    assert flat[1, (7 * height + 2) * width + 3] == y[1, 7, 2, 3]


@pytest.mark.parametrize("pool", ["mean", "flatten"])
def test_a_layers_gradient_is_that_of_the_network_cut_there(pool: layers.Pool) -> None:
    model, x = small(dtype=torch.float64), pixels(5, 2, dtype=torch.float64)

    def cut(x: Tensor) -> Tensor:
        y: Tensor = model.blocks[0](torch.relu(model.bn(model.conv((x - model.mean) / model.std))))
        return y.mean(dim=(2, 3)) if pool == "mean" else y.flatten(1)

    torch.testing.assert_close(gradient(layers.function(model, "blocks.0", pool=pool), x), gradient(cut, x))


def test_the_identity_relu_reaches_the_logits_and_the_last_layer_and_changes_no_value() -> None:
    model, x = small(dtype=torch.float64), pixels(6, 2, dtype=torch.float64)
    v = torch.linspace(-1, 1, 10, dtype=torch.float64).view(2, 5)
    through_r = gradient(layers.function(model, "penultimate", True), x, v @ model.linear.weight)
    for layer in ("logits", "linear"):
        identity, plain = layers.function(model, layer, True), layers.function(model, layer, False)
        assert torch.equal(identity(x), plain(x))
        torch.testing.assert_close(gradient(identity, x, v), through_r)
        assert not torch.allclose(gradient(plain, x, v), through_r)


def test_the_identity_relu_reaches_the_stage_that_it_ends(resnet: Network) -> None:
    x = pixels(7, 2, 64)
    expected = gradient(lambda x: resnet.represent(x, identity_relu=True), x)
    for layer in ("net.layer4", "net.layer4.1", "net.avgpool"):
        torch.testing.assert_close(gradient(layers.function(resnet, layer, True), x), expected, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(gradient(layers.function(resnet, layer, False), x), expected, rtol=1e-2, atol=1e-4)


def test_a_layer_before_the_last_relu_does_not_depend_on_it() -> None:
    model, x = small(), pixels(8, 2)
    with_identity, without = (gradient(layers.function(model, "blocks.1", identity), x) for identity in (True, False))
    assert torch.equal(with_identity, without)


def test_the_shared_network_gets_no_hook_and_its_weights_are_not_copied() -> None:
    model, x = small(), pixels(9, 2)
    f = layers.function(model, "conv")
    before = f(x)
    assert not any(module._forward_hooks for module in model.modules())
    model.conv.weight.mul_(2)
    torch.testing.assert_close(f(x), 2 * before)


def test_making_and_calling_a_function_leaves_the_mode_and_the_batch_statistics_alone() -> None:
    model, x = small().train(), pixels(10, 4)
    state = copy.deepcopy(model.state_dict())
    layers.function(model, "blocks.1")(x)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())


@pytest.fixture
def serial() -> Iterator[Callable[[], None]]:
    """Sums in one order, to the last bit, in every thread that calls it: how many cores share one varies with load."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield lambda: torch.set_num_threads(1)
    torch.set_num_threads(before)


def test_threads_that_share_a_network_and_a_function_each_get_their_own_results(
    resnet: Network, serial: Callable[[], None]
) -> None:
    names, shared = ("net.layer2", "net.layer4", "logits"), layers.function(resnet, "net.layer3")
    x = {i: pixels(20 + i, 1 + i, 32) for i in range(2)}
    expected = {
        i: [shared(x[i]), *(gradient(layers.function(resnet, name, bool(i)), x[i]) for name in names)] for i in x
    }
    wrong, barrier = list[str](), threading.Barrier(2)

    def work(i: int) -> None:
        serial()
        barrier.wait()
        for _ in range(8):
            results = [shared(x[i]), *(gradient(layers.function(resnet, name, bool(i)), x[i]) for name in names)]
            wrong.extend(
                name for name, a, b in zip(("shared", *names), results, expected[i], strict=True) if not a.equal(b)
            )

    threads = [threading.Thread(target=work, args=(i,)) for i in x]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("layer", ["blocks.7", "blocks", "", "mean", "conv.weight"])
def test_a_name_that_is_no_layer_is_refused_with_names_that_are(layer: str) -> None:
    with pytest.raises(
        ValueError, match=r"allowed: penultimate, logits, conv, bn, linear, blocks\.0, blocks\.1, "
    ) as e:
        layers.function(small(), layer)
    assert f"layer is {layer!r}" in str(e.value)


@pytest.mark.parametrize("layer", ["net", "net.layer1.0.relu"], ids=["never called whole", "called twice"])
def test_a_module_without_one_output_is_refused(resnet: Network, layer: str) -> None:
    assert layer in dict(resnet.named_modules())
    with pytest.raises(ValueError, match=r"allowed: penultimate, logits, .*net\.layer1, "):
        layers.function(resnet, layer)


def test_another_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="pool is 'max'; allowed: mean, flatten"):
        layers.function(small(), "conv", pool="max")  # type: ignore[arg-type]


def test_shapes_are_those_of_the_activations_in_the_order_of_the_modules() -> None:
    model, shapes = small(), layers.shapes(small(), 20)
    assert list(shapes)[:2] == ["penultimate", "logits"]
    assert list(shapes)[2:] == [name for name, _ in model.named_modules() if name in shapes]
    x = pixels(11, 1, 20)
    assert (shapes.pop("penultimate"), shapes.pop("logits")) == ([8], [5])
    assert shapes == {name: list(hooked(model, name, x).shape[1:]) for name in shapes}
    assert {"conv", "bn", "blocks.0", "blocks.1", "blocks.1.shortcut.0", "linear"} < set(shapes)


def test_each_listed_layer_can_be_asked_for_by_its_name(resnet: Network) -> None:
    x = pixels(12, 1, 64)
    for name, shape in list(layers.shapes(resnet, 64).items())[::4]:
        assert layers.function(resnet, name, pool="flatten")(x).shape == (1, prod(shape))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_a_shipped_card_lists_its_networks_layers_each_on_one_line(path: Path) -> None:
    text = path.read_text()
    card = json.loads(text)
    model = build(card["architecture"], len(card["classes"]))
    assert list(card["layers"].items()) == list(layers.shapes(model, card["input_size"]).items())
    assert to_json(card) + "\n" == text
    assert all(f'\n    "{name}": {shape}' in text for name, shape in card["layers"].items())
