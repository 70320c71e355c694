"""The CIFAR networks: their weights' published names, and their values against the same weights applied one by one."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.engine.networks import pixels
from workers.engine import models
from workers.engine.models import Network, build

KNOWN = ["cifar-resnet18", "cifar-resnet50", "cifar-wrn16-1", "cifar-vgg11_bn", "cifar-vgg11"]
State = dict[str, Tensor]


def lived_in(name: str) -> Network:
    """In float64 and eval mode, with batch statistics and biases off their start."""
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(name, 5).double().eval().requires_grad_(False)
    for key, t in model.state_dict().items():
        if key.endswith(("running_mean", "bias")):
            t.copy_(0.1 * torch.randn(t.shape, generator=random, dtype=t.dtype))
        elif key.endswith("running_var"):
            t.copy_((0.2 * torch.randn(t.shape, generator=random, dtype=t.dtype)).exp())
    return model


def norm(s: State, name: str, x: Tensor) -> Tensor:
    mean, variance, scale, shift = (s[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, variance, scale, shift)


def resnet(s: State, x: Tensor) -> Tensor:
    """What enters the last ReLU, before averaging; the published CIFAR ResNet, from its weights' names."""
    y = norm(s, "bn1", F.conv2d(x, s["conv1.weight"], padding=1))
    names = sorted({key.rsplit(".conv1", 1)[0] for key in s if ".conv1." in key})
    deep = f"{names[0]}.conv3.weight" in s
    for name in names:
        y = y.relu()
        stride = 2 if name.endswith(".0") and not name.startswith("layer1") else 1
        inner = F.conv2d(y, s[f"{name}.conv1.weight"], padding=0 if deep else 1, stride=1 if deep else stride)
        inner = norm(s, f"{name}.bn1", inner).relu()
        inner = F.conv2d(inner, s[f"{name}.conv2.weight"], padding=1, stride=stride if deep else 1)
        inner = norm(s, f"{name}.bn2", inner)
        if deep:
            inner = norm(s, f"{name}.bn3", F.conv2d(inner.relu(), s[f"{name}.conv3.weight"]))
        if f"{name}.shortcut.0.weight" in s:
            y = norm(s, f"{name}.shortcut.1", F.conv2d(y, s[f"{name}.shortcut.0.weight"], stride=stride))
        y = inner + y
    return y


def wide(s: State, x: Tensor) -> Tensor:
    y = F.conv2d(x, s["conv1.weight"], padding=1)
    for name in sorted({key.rsplit(".conv1", 1)[0] for key in s if ".conv1." in key}):
        stride = 2 if name.endswith(".0") and not name.startswith("block1") else 1
        activated = norm(s, f"{name}.bn1", y).relu()
        inner = norm(s, f"{name}.bn2", F.conv2d(activated, s[f"{name}.conv1.weight"], padding=1, stride=stride)).relu()
        if f"{name}.convShortcut.weight" in s:
            y = F.conv2d(activated, s[f"{name}.convShortcut.weight"], stride=stride)
        y = y + F.conv2d(inner, s[f"{name}.conv2.weight"], padding=1)
    return norm(s, "bn1", y)


def vgg(s: State, x: Tensor) -> Tensor:
    numbers = sorted({int(key.split(".")[1]) for key in s if key.startswith("features.")})
    has_norm = "features.1.running_mean" in s
    y, last = x, 0
    for i in numbers:
        if s[f"features.{i}.weight"].dim() == 1:
            y = norm(s, f"features.{i}", y)
            continue
        if i:
            y = y.relu()
        if i - last > 2 + has_norm:
            y = F.max_pool2d(y, 2)
        y, last = F.conv2d(y, s[f"features.{i}.weight"], s[f"features.{i}.bias"], padding=1), i
    return y


def by_hand(name: str, model: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    """What enters the last ReLU, and R(x)."""
    s, x = model.state_dict(), (x - model.mean) / model.std
    before = (resnet if "resnet" in name else wide if "wrn" in name else vgg)(s, x)
    after = before.relu()
    return before, (F.max_pool2d(after, 2) if "vgg" in name else after).mean(dim=(2, 3))


@pytest.mark.parametrize("name", KNOWN)
def test_the_representation_and_its_gradients_are_those_of_the_weights_applied_by_hand(name: str) -> None:
    model, x = lived_in(name), pixels(0, 2, 32, torch.float64).requires_grad_(True)
    before, expected = by_hand(name, model, x)
    r = model.represent(x)
    assert r.shape == (2, models.find(name).features)
    assert r.detach().std(dim=0).max() > 1e-4, "the case needs images that differ"
    torch.testing.assert_close(r, expected, rtol=1e-9, atol=1e-12)
    v = torch.linspace(-1, 1, r.numel(), dtype=r.dtype).view_as(r)
    (at_relu,) = torch.autograd.grad(expected, before, v, retain_graph=True)
    (plain,) = torch.autograd.grad(expected, x, v, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(r, x, v)[0], plain, rtol=1e-6, atol=1e-12)
    # Without the ReLU's mask, which pooling may have followed: average pooling passes the same share to each position.
    if "vgg" not in name:
        share = v[:, :, None, None].expand_as(before) / before[0, 0].numel()
        assert not torch.equal(at_relu, share)
        (straight,) = torch.autograd.grad(before, x, share)
        (ours,) = torch.autograd.grad(model.represent(x, identity_relu=True), x, v)
        torch.testing.assert_close(ours, straight, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", KNOWN)
def test_the_identity_relu_changes_the_gradient_and_no_value(name: str) -> None:
    model, x = lived_in(name), pixels(1, 1, 32, torch.float64).requires_grad_(True)
    assert model.has_last_relu
    plain, identity = model.represent(x), model.represent(x, identity_relu=True)
    assert torch.equal(plain, identity)
    (masked,), (straight,) = (torch.autograd.grad(r.sum(), x) for r in (plain, identity))
    assert not torch.allclose(masked, straight)


@pytest.mark.parametrize("name", KNOWN)
def test_the_logits_are_the_head_of_the_representation(name: str) -> None:
    model, x, head = lived_in(name), pixels(2, 2, 32, torch.float64), models.find(name).head
    s = model.state_dict()
    expected = F.linear(model.represent(x), s[f"{head}.weight"], s[f"{head}.bias"])
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    ("name", "tensors", "parameters", "some"),
    [
        # The robustness library's ResNets, and published counts of their parameters.
        ("cifar-resnet18", 122, 11_173_962, ["layer2.0.shortcut.0.weight", "layer1.1.bn2.bias", "linear.weight"]),
        ("cifar-resnet50", 320, 23_520_842, ["layer1.0.shortcut.1.running_var", "layer4.2.conv3.weight"]),
        ("cifar-wrn28-10", 155, 36_479_194, ["block1.layer.0.convShortcut.weight", "block3.layer.3.bn2.bias"]),
        ("cifar-vgg16_bn", 93, 14_728_266, ["features.0.weight", "features.41.running_mean", "classifier.bias"]),
    ],
)  # fmt: skip
def test_weights_have_their_published_names_and_number(
    name: str, tensors: int, parameters: int, some: list[str]
) -> None:
    with models.unallocated():
        model = models.find(name).make(10)
    state = model.state_dict()
    assert len(state) == tensors + 2  # mean and std
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert set(some) < state.keys()


@pytest.mark.parametrize(
    "name", ["cifar-wrn27-10", "cifar-wrn28-0", "cifar-wrn28-21", "cifar-wrn4-2", "cifar-wrn106-1"]
)
def test_a_wide_resnet_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(KeyError, match=r"cifar-wrn\{depth\}-\{width\} with depth 6 n \+ 4 up to 100"):
        build(name)


def test_a_wide_resnet_of_any_other_depth_and_width_can_be_named() -> None:
    assert models.find("cifar-wrn40-2").features == 128
    assert build("cifar-wrn10-1", 3)(pixels(3, 2, 32)).shape == (2, 3)
