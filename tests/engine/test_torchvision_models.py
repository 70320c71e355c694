"""torchvision's networks in ours: against torchvision's own graphs, with the same weights, on normalised pixels."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as zoo
from torchvision.models.feature_extraction import create_feature_extractor

from tests.engine.networks import pixels
from workers.engine import layers, models
from workers.engine.models import Network, build, load

SIZE, CLASSES = 32, 5


@dataclass(frozen=True)
class Case:
    """Our network, torchvision's, and where in the latter's graph R(x), its last ReLU's input and the head are."""

    ours: Network
    theirs: nn.Module
    r: str
    before_relu: str
    head: str

    def activations(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """R(x) and what enters the last ReLU, in torchvision's graph."""
        graphs = [create_feature_extractor(self.theirs, [node]) for node in (self.r, self.before_relu)]
        r, before = (graph(normalised(x))[node] for graph, node in zip(graphs, (self.r, self.before_relu), strict=True))
        return r, before.mean(dim=(2, 3)) if before.dim() > 2 else before


CASES = {
    "resnet18": ("flatten", "layer4.1.add", "fc"),
    "resnet50": ("flatten", "layer4.2.add", "fc"),
    "vgg16_bn": ("classifier.4", "classifier.3", "classifier.6"),
}


def normalised(x: Tensor) -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def lived_in(model: Network) -> Network:
    """Batch statistics and biases off their start."""
    random = torch.Generator().manual_seed(0)
    for name, t in model.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            t.copy_(0.2 * torch.randn(t.shape, generator=random))
        elif name.endswith("running_var"):
            t.copy_((0.3 * torch.randn(t.shape, generator=random)).exp())
    return model


def torchvision_network(name: str, state: dict[str, Tensor]) -> nn.Module:
    """torchvision's own, around the tensors in `state`."""
    with torch.device("meta"):
        net: nn.Module = zoo.get_model(name, weights=None, num_classes=CLASSES)
    net.load_state_dict({key.removeprefix("net."): t for key, t in state.items() if "." in key}, assign=True)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = lived_in(build(request.param, CLASSES)).eval().requires_grad_(False)
    return Case(model, torchvision_network(request.param, model.state_dict()), *CASES[request.param])


def test_the_representation_and_the_logits_are_torchvisions(case: Case) -> None:
    x = pixels(0, 3, SIZE)
    r, _ = case.activations(x)
    assert r.std(dim=0).max() > 0.01, "the case needs images that differ"
    torch.testing.assert_close(case.ours.represent(x), r, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(case.ours(x), case.theirs(normalised(x)), rtol=1e-4, atol=1e-4)


def test_the_logits_are_the_last_layer_of_the_representation(case: Case) -> None:
    x, head = pixels(1, 2, SIZE), case.theirs.get_submodule(case.head)
    expected = F.linear(case.ours.represent(x), head.get_parameter("weight"), head.get_parameter("bias"))
    torch.testing.assert_close(case.ours(x), expected)


def test_the_identity_relu_changes_no_value(case: Case) -> None:
    x = pixels(2, 2, SIZE)
    assert torch.equal(case.ours.represent(x, identity_relu=True), case.ours.represent(x))
    assert torch.equal(case.ours(x, identity_relu=True), case.ours(x))


@pytest.mark.parametrize("identity", [False, True], ids=["plain", "identity"])
def test_the_gradient_is_torchvisions_with_the_last_relu_or_without_it(case: Case, identity: bool) -> None:
    x = pixels(3, 2, SIZE).requires_grad_(True)
    r, before = case.activations(x)
    v = torch.linspace(-1, 1, r.numel()).view_as(r)
    (expected,) = torch.autograd.grad(before if identity else r, x, v)
    (ours,) = torch.autograd.grad(case.ours.represent(x, identity_relu=identity), x, v)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_a_dead_unit_moves_the_image_only_through_the_identity_relu(case: Case) -> None:
    x = pixels(4, 1, SIZE).requires_grad_(True)
    r = case.ours.represent(x)[0]
    unit = int(r.argmin())
    assert r[unit] == 0, "the case needs a dead unit"
    (plain,) = torch.autograd.grad(r[unit], x)
    (identity,) = torch.autograd.grad(case.ours.represent(x, identity_relu=True)[0, unit], x)
    assert not plain.any()
    assert identity.any()


def test_a_gradient_can_be_taken_in_train_mode_too(case: Case) -> None:
    x = pixels(5, 2, 64).requires_grad_(True)
    before = {name: t.clone() for name, t in case.ours.named_buffers()}
    case.ours.train()
    gradients = [torch.autograd.grad(case.ours(x, identity).square().sum(), x)[0] for identity in (False, True)]
    case.ours.eval()
    for name, t in case.ours.named_buffers():
        t.copy_(before[name])
    assert all(g.any() for g in gradients)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d", "vgg11", "vgg19_bn",
                                  "densenet121", "vit_b_32", "regnet_y_400mf"])  # fmt: skip
def test_the_weights_have_torchvisions_names_behind_a_prefix(name: str) -> None:
    with models.unallocated():
        ours, theirs = build(name).state_dict(), zoo.get_model(name, weights=None).state_dict()
    expected: dict[str, Any] = {f"net.{key}": t.shape for key, t in theirs.items()}
    expected |= {"mean": (1, 3, 1, 1), "std": (1, 3, 1, 1)}
    assert {key: t.shape for key, t in ours.items()} == expected


def test_the_normalisation_and_the_number_of_classes_come_from_the_checkpoint() -> None:
    source, x = lived_in(build("resnet18", classes=3)), pixels(6, 2, SIZE)
    state = {**source.state_dict(), "mean": torch.full((1, 3, 1, 1), 0.5), "std": torch.full((1, 3, 1, 1), 2.0)}
    model = load("resnet18", state)
    assert model(x).shape == (2, 3)
    same_input = (x - 0.5) / 2 * source.std + source.mean
    torch.testing.assert_close(model.represent(x), source.eval().represent(same_input), rtol=1e-3, atol=1e-4)


def test_a_loaded_network_is_frozen_and_in_eval_mode() -> None:
    model = load("resnet18", build("resnet18", classes=2).state_dict())
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())


def test_a_checkpoint_without_the_prefix_is_refused_with_the_missing_and_the_unexpected_keys() -> None:
    state = build("resnet18").state_dict()
    state["fc.bias"] = state.pop("net.fc.bias")
    with pytest.raises(RuntimeError) as error:
        load("resnet18", state)
    assert 'Missing key(s) in state_dict: "net.fc.bias"' in str(error.value)
    assert 'Unexpected key(s) in state_dict: "fc.bias"' in str(error.value)


ANY = {"mobilenet_v3_small": ("classifier.3", 64), "shufflenet_v2_x0_5": ("fc", 64), "alexnet": ("classifier.6", 64)}
SLOW = {
    "densenet121": ("classifier", 64), "efficientnet_b0": ("classifier.1", 64), "convnext_tiny": ("classifier.2", 64),
    "vit_b_32": ("heads.head", 224), "swin_t": ("head", 64), "swin_v2_t": ("head", 64), "regnet_y_400mf": ("fc", 64),
    "maxvit_t": ("classifier.5", 224), "inception_v3": ("fc", 96), "googlenet": ("fc", 64),
    "mnasnet0_5": ("classifier.1", 64),
}  # fmt: skip


def any_network(name: str, size: int = 64) -> Network:
    """With batch statistics of noise, without which deep networks cannot tell images apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(name, CLASSES).requires_grad_(False)
        head = model.get_parameter(f"{models.find(name).head}.weight")
        head.copy_(0.1 * torch.randn_like(head))  # a ViT's is 0
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        if norms:
            model(pixels(11, 8, size))
    return model.eval()


@pytest.mark.parametrize("name", [*ANY, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_any_other_classifiers_representation_is_what_its_last_linear_layer_reads(name: str) -> None:
    (head, size), read = (ANY | SLOW)[name], list[Tensor]()
    model, x = any_network(name, size), pixels(7, 2, size)
    more = {"aux_logits": False} if name in ("inception_v3", "googlenet") else {}
    theirs = zoo.get_model(name, weights=None, num_classes=CLASSES, **more | ({"init_weights": False} if more else {}))
    for key, t in theirs.state_dict().items():
        t.copy_(model.state_dict()[f"net.{key}"])
    theirs.eval().to(memory_format=torch.channels_last).get_submodule(head).register_forward_hook(
        lambda *event: read.append(event[1][0])
    )
    with torch.no_grad():
        expected = theirs((x - model.mean) / model.std)
    r = model.represent(x)
    assert r.shape == (2, models.find(name).features)
    torch.testing.assert_close(r, read[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(load(name, model.state_dict())(x), model(x))
    assert not torch.allclose(expected[0], expected[1], rtol=1e-3), "the case needs images that differ"


def test_any_other_classifier_trains_and_passes_gradients_to_the_image() -> None:
    model, x = any_network("mobilenet_v3_small").train().requires_grad_(True), pixels(8, 4, 64).requires_grad_(True)
    model(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.any()
    assert all(p.grad is not None for p in model.parameters())


def test_the_identity_relu_is_refused_where_it_is_not_known() -> None:
    model = any_network("mobilenet_v3_small")
    assert not model.has_last_relu
    assert not models.find("mobilenet_v3_small").has_last_relu
    with pytest.raises(ValueError, match="identity_relu is not offered for mobilenet_v3_small"):
        model(pixels(9, 1, 64), identity_relu=True)


def test_any_other_classifiers_layers_can_be_read_by_name() -> None:
    model = any_network("mobilenet_v3_small")
    shapes = layers.shapes(model, 64)
    assert (shapes["penultimate"], shapes["logits"]) == ([1024], [CLASSES])
    assert "net.classifier.3" not in shapes, "it lets R(x) through and reads it: it has no one output"
    y = layers.function(model, "net.features.0", pool="flatten")(pixels(10, 1, 64))
    assert y.numel() == torch.Size(shapes["net.features.0"]).numel()


def test_a_classifier_without_a_linear_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="squeezenet1_0 has no linear layer"):
        build("squeezenet1_0")


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(KeyError, match=r"'resnet51'; allowed: cifar-resnet-small, .*torchvision's classifiers"):
        build("resnet51")


@pytest.mark.parametrize(
    ("name", "size", "half"),
    [("inception_v3", 299, True), ("vit_h_14", 224, False), ("efficientnet_b3", 300, False), ("swin_v2_b", 256, False)],
)
def test_sizes_and_normalisation_are_those_of_the_published_weights(name: str, size: int, half: bool) -> None:
    assert models.find(name).size == size
    with models.unallocated():
        model = models.find(name).make(2)
    assert (model.mean.flatten().tolist() == [0.5] * 3) == half


@pytest.mark.slow
def test_every_name_can_be_built_and_its_table_is_right() -> None:
    assert len(set(models.architectures())) == len(models.architectures()) > 90
    for name in models.architectures():
        a = models.find(name)
        with models.unallocated():
            model = a.make(3)
        assert model.get_parameter(f"{a.head}.weight").shape == (3, a.features), name
        assert model.has_last_relu == a.has_last_relu
