"""Networks for images of 32 x 32 pixels. R(x) is what the last linear layer reads; all know their last ReLU."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from workers.engine.network import LastReLU, Network, Plan, last_relu, residual

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)

VGG_CHANNELS: dict[int, tuple[tuple[int, int], ...]] = {
    depth: tuple(zip(convolutions, (64, 128, 256, 512, 512), strict=True))
    for depth, convolutions in {
        11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4),
    }.items()
}  # fmt: skip
"""(convolutions, channels) of each stage, by depth (Simonyan and Zisserman 2015, table 1)."""


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A 1x1 convolution and its batch norm; nothing where the shape stays."""
    if inputs == outputs and stride == 1:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Two 3x3 convolutions beside a projected shortcut; the last ReLU is left to the caller."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        residual: Tensor = self.bn2(self.conv2(y))
        shortcut: Tensor = self.shortcut(x)
        return residual + shortcut


class PlainBlock(Block):
    """`Block` with an identity shortcut where the shape stays (He et al. 2016, figure 5 left)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__(inputs, width, stride)
        self.shortcut = _shortcut(inputs, width, stride)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide (figure 5 right); the last ReLU is the caller's."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = _shortcut(inputs, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        residual: Tensor = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        shortcut: Tensor = self.shortcut(x)
        return residual + shortcut


class PreActivationBlock(nn.Module):
    """Batch norm and ReLU before each 3x3 convolution; a shortcut that changes the width starts after the first."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(y)
        residual: Tensor = self.conv2(F.relu(self.bn2(self.conv1(y))))
        return residual + shortcut


class Classifier(Network):
    """A residual network for small images: 3x3 stem, one block for each width, global average pooling, linear."""

    has_last_relu: ClassVar[bool] = True

    def __init__(self, stem: int, widths: tuple[int, ...], classes: int) -> None:
        super().__init__(CIFAR_MEAN, CIFAR_STD)
        self.conv = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(stem)
        inputs = (stem, *widths)
        self.blocks = nn.ModuleList(
            Block(i, o, 1 if n == 0 else 2) for n, (i, o) in enumerate(zip(inputs, widths, strict=False))
        )
        self.linear = nn.Linear(widths[-1], classes)

    def represent(self, x_NCHW: Tensor, identity_relu: bool = False) -> Tensor:
        y = F.relu(self.bn(self.conv(self.normalise(x_NCHW))))
        for i, block in enumerate(self.blocks):
            y = last_relu(block(y), identity_relu and i == len(self.blocks) - 1)
        r_NK: Tensor = y.mean(dim=(2, 3))
        return r_NK

    def plan(self) -> Plan:
        return Plan(self.conv, False, [residual(block, "shortcut") for block in self.blocks])

    def classify(self, r_NK: Tensor) -> Tensor:
        logits: Tensor = self.linear(r_NK)
        return logits


class CifarResNet(Network):
    """ResNet with a 3x3 stem and no pooling before the last; weights are named as the robustness library's.

    `blocks` counts those of the four stages, of width 64, 128, 256 and 512.
    """

    has_last_relu: ClassVar[bool] = True

    def __init__(self, block: Callable[[int, int, int], nn.Module], blocks: tuple[int, ...], classes: int) -> None:
        super().__init__(CIFAR_MEAN, CIFAR_STD)
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs, wider = 64, 4 if block is Bottleneck else 1
        for stage, count in enumerate(blocks):
            width, layers = 64 << stage, []
            for i in range(count):
                layers.append(block(inputs, width, 2 if stage and i == 0 else 1))
                inputs = wider * width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(inputs, classes)

    def represent(self, x_NCHW: Tensor, identity_relu: bool = False) -> Tensor:
        y = F.relu(self.bn1(self.conv1(self.normalise(x_NCHW))))
        blocks = self.blocks
        for block in blocks:
            y = last_relu(block(y), identity_relu and block is blocks[-1])
        r_NK: Tensor = y.mean(dim=(2, 3))
        return r_NK

    @property
    def blocks(self) -> list[nn.Module]:
        return [block for i in range(1, 5) for block in self.get_submodule(f"layer{i}").children()]

    def plan(self) -> Plan:
        return Plan(self.conv1, False, [residual(block, "shortcut") for block in self.blocks])

    def classify(self, r_NK: Tensor) -> Tensor:
        logits: Tensor = self.linear(r_NK)
        return logits


class _Stage(nn.Module):
    """Blocks under the name that the published weights give them."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


class WideResNet(Network):
    """WRN-`depth`-`width` (Zagoruyko and Komodakis 2016), without dropout; K = 64 `width`.

    Weights are named as adversarial training's published networks name them: block1.layer.0.convShortcut, fc.
    """

    has_last_relu: ClassVar[bool] = True

    def __init__(self, depth: int, width: int, classes: int) -> None:
        super().__init__(CIFAR_MEAN, CIFAR_STD)
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        inputs, count = 16, (depth - 4) // 6
        for stage in range(3):
            outputs = (16 << stage) * width
            first = PreActivationBlock(inputs, outputs, 2 if stage else 1)
            others = (PreActivationBlock(outputs, outputs, 1) for _ in range(count - 1))
            self.add_module(f"block{stage + 1}", _Stage(first, *others))
            inputs = outputs
        self.bn1 = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs, classes)

    def represent(self, x_NCHW: Tensor, identity_relu: bool = False) -> Tensor:
        y = self.conv1(self.normalise(x_NCHW))
        for i in range(1, 4):
            y = self.get_submodule(f"block{i}")(y)
        r_NK: Tensor = last_relu(self.bn1(y), identity_relu).mean(dim=(2, 3))
        return r_NK

    def classify(self, r_NK: Tensor) -> Tensor:
        logits: Tensor = self.fc(r_NK)
        return logits


class CifarVGG(Network):
    """VGG's convolutions and one linear layer, K = 512: the form usual for CIFAR, and its names.

    `R(x)` is what is left after the fifth pooling, averaged over positions.
    """

    has_last_relu: ClassVar[bool] = True

    def __init__(self, depth: int, norm: bool, classes: int) -> None:
        super().__init__(CIFAR_MEAN, CIFAR_STD)
        layers, inputs = list[nn.Module](), 3
        for convolutions, channels in VGG_CHANNELS[depth]:
            for _ in range(convolutions):
                layers += [
                    nn.Conv2d(inputs, channels, 3, 1, 1),
                    *([nn.BatchNorm2d(channels)] if norm else []),
                    nn.ReLU(),
                ]
                inputs = channels
            layers.append(nn.MaxPool2d(2))
        layers[-2] = LastReLU()
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, classes)

    def represent(self, x_NCHW: Tensor, identity_relu: bool = False) -> Tensor:
        *layers, relu, pool = self.features
        y = self.normalise(x_NCHW)
        for layer in layers:
            y = layer(y)
        r_NK: Tensor = pool(relu(y, identity_relu)).mean(dim=(2, 3))
        return r_NK

    def classify(self, r_NK: Tensor) -> Tensor:
        logits: Tensor = self.classifier(r_NK)
        return logits
