"""torchvision's classifiers as networks with a representation; weights are named as torchvision's, behind `net.`."""

from functools import cache
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from workers.engine.network import LastReLU, Network, Plan, last_relu, residual

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

RESNETS = {
    "resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048, "resnet152": 2048,
    "resnext50_32x4d": 2048, "resnext101_32x8d": 2048, "resnext101_64x4d": 2048,
    "wide_resnet50_2": 2048, "wide_resnet101_2": 2048,
}  # fmt: skip
"""K by name."""
VGGS = tuple(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn"))


class ResNet(Network):
    """A ResNet, ResNeXt or wide ResNet: R(x) is taken after global average pooling, K as in RESNETS."""

    has_last_relu: ClassVar[bool] = True
    net: Any

    def __init__(self, name: str, classes: int) -> None:
        super().__init__(IMAGENET_MEAN, IMAGENET_STD)
        self.net = _torchvision(name, classes)
        self.net.layer4 = _LastStage(self.net.layer4)

    def represent(self, x_NCHW: Tensor, identity_relu: bool = False) -> Tensor:
        net = self.net
        y = net.maxpool(net.relu(net.bn1(net.conv1(self.normalise(x_NCHW)))))
        y = net.layer4(net.layer3(net.layer2(net.layer1(y))), identity_relu)
        r_NK: Tensor = net.avgpool(y).flatten(1)
        return r_NK

    def plan(self) -> Plan:
        blocks = [block for i in range(1, 5) for block in self.net.get_submodule(f"layer{i}")]
        return Plan(self.net.conv1, True, [residual(block, "downsample") for block in blocks])

    def classify(self, r_NK: Tensor) -> Tensor:
        logits: Tensor = self.net.fc(r_NK)
        return logits


class VGG(Network):
    """A VGG: R(x) is taken after the ReLU of the second fully connected layer, K = 4096."""

    has_last_relu: ClassVar[bool] = True
    net: Any

    def __init__(self, name: str, classes: int) -> None:
        super().__init__(IMAGENET_MEAN, IMAGENET_STD)
        self.net = _torchvision(name, classes)
        self.net.classifier[4] = LastReLU()

    def represent(self, x_NCHW: Tensor, identity_relu: bool = False) -> Tensor:
        fc1, relu1, dropout1, fc2, relu2, *_ = self.net.classifier
        y = self.net.avgpool(self.net.features(self.normalise(x_NCHW))).flatten(1)
        r_NK: Tensor = relu2(fc2(dropout1(relu1(fc1(y)))), identity_relu)
        return r_NK

    def classify(self, r_NK: Tensor) -> Tensor:
        *_, dropout2, fc3 = self.net.classifier
        logits: Tensor = fc3(dropout2(r_NK))
        return logits


class AnyClassifier(Network):
    """Any other classifier: R(x) is what its last linear layer reads, `head` that layer's name, `features` K.

    Where its last ReLU is, if it has one, is not known. Raises ValueError for a network without a linear layer.
    """

    net: Any

    def __init__(self, name: str, classes: int) -> None:
        # Their published weights take pixels normalised so; torchvision undoes ImageNet's constants for two of them.
        half = name in ("googlenet", "inception_v3", "efficientnet_v2_l")
        super().__init__(*((HALF, HALF) if half else (IMAGENET_MEAN, IMAGENET_STD)))
        self.name, self.trial_size = name, input_size(name)
        self.net = _torchvision(name, classes)
        linear = [(path, layer) for path, layer in self.net.named_modules() if isinstance(layer, nn.Linear)]
        if not linear:
            raise ValueError(f"{name} has no linear layer, so no representation that it reads")
        self.head, layer = linear[-1]
        self.features = layer.in_features
        self.net.set_submodule(self.head, _Head(layer))

    def represent(self, x_NCHW: Tensor, identity_relu: bool = False) -> Tensor:
        if identity_relu:
            raise ValueError(f"identity_relu is not offered for {self.name}: its last ReLU is not known")
        r_NK: Tensor = self.net(self.normalise(x_NCHW))
        return r_NK

    def classify(self, r_NK: Tensor) -> Tensor:
        logits: Tensor = self.net.get_submodule(self.head)(r_NK, read=True)
        return logits


@cache
def classifiers() -> tuple[str, ...]:
    """The names of torchvision's classifiers that have a representation: SqueezeNets end in a convolution."""
    from torchvision import models

    return tuple(name for name in models.list_models(module=models) if not name.startswith("squeezenet"))


@cache
def input_size(name: str) -> int:
    """Pixels of a side that published weights of this name were evaluated with, the least if there are several."""
    from torchvision import models

    return min(int(weights.transforms.keywords["crop_size"]) for weights in models.get_model_weights(name))


def _torchvision(name: str, classes: int) -> Any:
    # Imported here because it loads torch's compiler, seconds that every worker would wait for at its start.
    from torchvision import models

    # Their auxiliary heads exist only while training, where they would give three outputs.
    more = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, weights=None, num_classes=classes, **more)


class _Head(nn.Module):
    """The weights of a linear layer, under their names, in its place: it lets R(x) through, and reads it if asked."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, r_NK: Tensor, read: bool = False) -> Tensor:
        return F.linear(r_NK, self.weight, self.bias) if read else r_NK


class _LastStage(nn.Sequential):
    """A stage of residual blocks that hands `identity_relu` to its last block."""

    def __init__(self, stage: nn.Sequential) -> None:
        *blocks, last = stage
        super().__init__(*blocks, _LastBlock(last))

    def forward(self, x: Tensor, identity_relu: bool = False) -> Tensor:
        *blocks, last = self
        for block in blocks:
            x = block(x)
        y: Tensor = last(x, identity_relu)
        return y


class _LastBlock(nn.Module):
    """The layers of a torchvision BasicBlock or Bottleneck, under their names, with the final ReLU told apart.

    The last of several blocks in a stage has an identity shortcut.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        layers = {name: layer for name, layer in block.named_children() if name != "relu"}
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.convolutions = len(layers) // 2

    def forward(self, x: Tensor, identity_relu: bool = False) -> Tensor:
        y = x
        for i in range(1, self.convolutions + 1):
            y = self.get_submodule(f"conv{i}")(F.relu(y) if i > 1 else y)
            y = self.get_submodule(f"bn{i}")(y)
        return last_relu(y + x, identity_relu)
