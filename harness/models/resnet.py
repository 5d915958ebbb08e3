"""Residual networks (He et al. 2016) with a CIFAR or an ImageNet stem, blocks listed per stage in `stages`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from harness.config.schema import WIDTHS, ModelConfig
from harness.models.shape import ChannelReLU, InputShape

Norm = Callable[[int], nn.Module]


def norm_of(name: str) -> Norm:
    if name in ("batch", "sync"):
        return nn.BatchNorm2d
    if name == "group":
        return lambda channels: nn.GroupNorm(max(1, channels // 16), channels)
    return lambda channels: nn.Identity()


def conv(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=False)


class Shortcut(nn.Module):
    """1 x 1 projection and normalisation, where the shape changes."""

    def __init__(self, n_in: int, n_out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv = conv(n_in, n_out, 1, stride)
        self.norm = norm(n_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, n_in: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = conv(n_in, width, 3, stride)
        self.norm1 = norm(width)
        self.act1 = ChannelReLU(width)
        self.conv2 = conv(width, width, 3)
        self.norm2 = norm(width)
        self.act2 = ChannelReLU(width)
        self.shortcut = Shortcut(n_in, width, stride, norm) if stride != 1 or n_in != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return self.act2(out + self.shortcut(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (carrying the stride), 1 x 1."""

    expansion = 4

    def __init__(self, n_in: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        n_out = width * self.expansion
        self.conv1 = conv(n_in, width, 1)
        self.norm1 = norm(width)
        self.act1 = ChannelReLU(width)
        self.conv2 = conv(width, width, 3, stride)
        self.norm2 = norm(width)
        self.act2 = ChannelReLU(width)
        self.conv3 = conv(width, n_out, 1)
        self.norm3 = norm(n_out)
        self.act3 = ChannelReLU(n_out)
        self.shortcut = Shortcut(n_in, n_out, stride, norm) if stride != 1 or n_in != n_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.norm1(self.conv1(x)))
        out = self.act2(self.norm2(self.conv2(out)))
        out = self.norm3(self.conv3(out))
        return self.act3(out + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        config: ModelConfig,
        inputs: InputShape,
    ) -> None:
        super().__init__()
        norm, width = norm_of(config.norm), config.width or WIDTHS["resnet34"]
        self.width = width
        if config.stem == "imagenet":
            self.conv1 = conv(inputs.channels, width, 7, 2)
            self.pool: nn.Module = nn.MaxPool2d(3, 2, 1)
        else:
            self.conv1 = conv(inputs.channels, width, 3)
            self.pool = nn.Identity()
        self.norm1 = norm(width)
        self.act1 = ChannelReLU(width)
        self.stages = nn.ModuleList()
        n_in = width
        for s, n_blocks in enumerate(blocks):
            stage = nn.Sequential()
            for b in range(n_blocks):
                stage.append(block(n_in, width << s, 2 if s > 0 and b == 0 else 1, norm))
                n_in = (width << s) * block.expansion
            self.stages.append(stage)
        self.classifier = nn.Linear(n_in, inputs.n_classes, bias=config.classifier_bias)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, h, w] to logits [batch, n_classes]."""
        x = self.pool(self.act1(self.norm1(self.conv1(x))))
        for stage in self.stages:
            x = stage(x)
        return self.classifier(x.mean((2, 3)))


def resnet18(config: ModelConfig, inputs: InputShape) -> nn.Module:
    return ResNet(BasicBlock, (2, 2, 2, 2), config, inputs)


def resnet34(config: ModelConfig, inputs: InputShape) -> nn.Module:
    return ResNet(BasicBlock, (3, 4, 6, 3), config, inputs)


def resnet50(config: ModelConfig, inputs: InputShape) -> nn.Module:
    return ResNet(Bottleneck, (3, 4, 6, 3), config, inputs)
