"""Architectures by name: how to build one, and how to load its weights."""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from workers.engine import cifar_models, torchvision_models
from workers.engine.cifar_models import CIFAR_MEAN as CIFAR_MEAN
from workers.engine.cifar_models import CIFAR_STD as CIFAR_STD
from workers.engine.cifar_models import Bottleneck, CifarResNet, CifarVGG, PlainBlock, WideResNet
from workers.engine.cifar_models import Classifier as Classifier
from workers.engine.network import Network as Network
from workers.engine.torchvision_models import VGG, AnyClassifier, ResNet


@dataclass(frozen=True)
class Architecture:
    """A network by name: its input is 3 x `size` x `size`, R(x) has `features` coordinates.

    `make` takes the number of classes, `classes` unless the weights say otherwise: `head` names their last layer.
    """

    make: Callable[[int], Network]
    head: str
    size: int
    features: int
    classes: int
    has_last_relu: bool = True


def _cifar(make: Callable[[int], Network], head: str, features: int) -> Architecture:
    return Architecture(make, head, size=32, features=features, classes=10)


def _imagenet(make: Callable[[int], Network], head: str, features: int) -> Architecture:
    return Architecture(make, head, size=224, features=features, classes=1000)


def _wide(depth: int, width: int) -> Architecture:
    return _cifar(partial(WideResNet, depth, width), "fc", 64 * width)


def _cifar_resnet(block: type[nn.Module], *blocks: int) -> Architecture:
    return _cifar(partial(CifarResNet, block, blocks), "linear", 2048 if block is Bottleneck else 512)


ARCHITECTURES = {
    "cifar-resnet-small": _cifar(partial(Classifier, 24, (48, 96, 192)), "linear", 192),
    "cifar-resnet-slim": _cifar(partial(Classifier, 16, (32, 64, 128)), "linear", 128),
    "cifar-resnet18": _cifar_resnet(PlainBlock, 2, 2, 2, 2),
    "cifar-resnet34": _cifar_resnet(PlainBlock, 3, 4, 6, 3),
    "cifar-resnet50": _cifar_resnet(Bottleneck, 3, 4, 6, 3),
    "cifar-resnet101": _cifar_resnet(Bottleneck, 3, 4, 23, 3),
    "cifar-resnet152": _cifar_resnet(Bottleneck, 3, 8, 36, 3),
    **{f"cifar-wrn{d}-{w}": _wide(d, w) for d, w in ((16, 4), (28, 10), (34, 10), (34, 20), (70, 16))},
    **{
        f"cifar-vgg{depth}{suffix}": _cifar(partial(CifarVGG, depth, bool(suffix)), "classifier", 512)
        for depth in cifar_models.VGG_CHANNELS
        for suffix in ("", "_bn")
    },
    **{name: _imagenet(partial(ResNet, name), "net.fc", k) for name, k in torchvision_models.RESNETS.items()},
    **{name: _imagenet(partial(VGG, name), "net.classifier.6", 4096) for name in torchvision_models.VGGS},
}
"""Those that are known without importing torchvision's zoo; `find` knows more."""

DEEPEST, WIDEST = 100, 20
"""Bounds of a wide ResNet named by depth and width."""


def architectures() -> list[str]:
    """Every name that `find` knows, but for wide ResNets of other depths and widths."""
    return [*ARCHITECTURES, *(name for name in torchvision_models.classifiers() if name not in ARCHITECTURES)]


def find(name: str) -> Architecture:
    """The architecture of this name: in ARCHITECTURES, `cifar-wrn{depth}-{width}`, or a classifier of torchvision's.

    Raises KeyError for an unknown name, ValueError for a classifier that ends in no linear layer.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    if numbers := re.fullmatch(r"cifar-wrn([1-9]\d{1,2})-([1-9]\d?)", name):
        depth, width = map(int, numbers.groups())
        if depth % 6 == 4 and depth <= DEEPEST and width <= WIDEST:
            return _wide(depth, width)
    return _any(name)


@cache
def _any(name: str) -> Architecture:
    if name not in torchvision_models.classifiers() and not name.startswith("squeezenet"):
        cifar = ", ".join(each for each in ARCHITECTURES if each.startswith("cifar-") and "wrn" not in each)
        raise KeyError(
            f"architecture {name!r}; allowed: {cifar}, cifar-wrn{{depth}}-{{width}} with depth 6 n + 4 up to {DEEPEST} "
            f"and width up to {WIDEST}, and torchvision's classifiers (resnet50, vgg16_bn, densenet121, ...)"
        )
    make = partial(AnyClassifier, name)
    with unallocated():
        network = make(1)
    return Architecture(make, f"net.{network.head}", network.trial_size, network.features, 1000, has_last_relu=False)


class unallocated(TorchFunctionMode):  # noqa: N801 - a context manager
    """Networks made within have weights with a shape but no memory. Raises what making them raises."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Not everything: RegNets compute their widths with tensors.
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def build(
    architecture: str,
    classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Network:
    """A freshly initialised network, with the architecture's own number of classes and normalisation unless given.

    `mean` and `std` are the data set's, one number a channel, of pixels in [0, 1]. Raises KeyError for an unknown
    name, and ValueError for a mean or std that is not three finite numbers, std's above 0.
    """
    a = find(architecture)
    network = a.make(a.classes if classes is None else classes)
    network.set_normalisation(mean, std)
    return network.to(memory_format=torch.channels_last)


def load(architecture: str, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> Network:
    """The network with these weights, frozen, in eval mode; its classes are counted in their last layer.

    Raises KeyError as `build` does, and RuntimeError naming missing or unexpected keys and other shapes.
    """
    head = state.get(f"{find(architecture).head}.weight")
    model = build(architecture, None if head is None else len(head))
    weights = OrderedDict(state)
    # The names are today's: without versions, MNASNet refuses them and batch norms overlook missing counters.
    weights._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(weights, strict=True)
    return model.eval().requires_grad_(False).to(device)


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and bytes of the weights: the same for every file format that holds them."""
    h = hashlib.sha256()
    for name in sorted(state):
        t = state[name].detach().cpu().contiguous()
        h.update(f"{name} {tuple(t.shape)} {t.dtype}\n".encode())
        h.update(t.view(-1).view(torch.uint8).numpy().data)
    return h.hexdigest()
