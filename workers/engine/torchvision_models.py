"""torchvision's ResNet and VGG as networks with a representation; weights are named as torchvision's, behind `net.`."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from workers.engine.network import Network, last_relu

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ResNet(Network):
    """`resnet18` or `resnet50`: R(x) is taken after global average pooling, K = 512 or 2048."""

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

    def classify(self, r_NK: Tensor) -> Tensor:
        logits: Tensor = self.net.fc(r_NK)
        return logits


class VGG(Network):
    """`vgg16` or `vgg16_bn`: R(x) is taken after the ReLU of the second fully connected layer, K = 4096."""

    net: Any

    def __init__(self, name: str, classes: int) -> None:
        super().__init__(IMAGENET_MEAN, IMAGENET_STD)
        self.net = _torchvision(name, classes)
        self.net.classifier[4] = _LastReLU()

    def represent(self, x_NCHW: Tensor, identity_relu: bool = False) -> Tensor:
        fc1, relu1, dropout1, fc2, relu2, *_ = self.net.classifier
        y = self.net.avgpool(self.net.features(self.normalise(x_NCHW))).flatten(1)
        r_NK: Tensor = relu2(fc2(dropout1(relu1(fc1(y)))), identity_relu)
        return r_NK

    def classify(self, r_NK: Tensor) -> Tensor:
        *_, dropout2, fc3 = self.net.classifier
        logits: Tensor = fc3(dropout2(r_NK))
        return logits


def _torchvision(name: str, classes: int) -> Any:
    # Imported here because it loads torch's compiler, seconds that every worker would wait for at its start.
    from torchvision import models

    return models.get_model(name, weights=None, num_classes=classes)


class _LastReLU(nn.Module):
    def forward(self, x: Tensor, identity_relu: bool = False) -> Tensor:
        return last_relu(x, identity_relu)


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
