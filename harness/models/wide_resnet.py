from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from harness.config.schema import ModelConfig
from harness.models.resnet import conv
from harness.models.shape import ChannelReLU, InputShape, fixed_width


class PreActivationBlock(nn.Module):
    """norm, ReLU, 3 x 3 convolution, twice, dropout between; where the shape changes the shortcut starts after the
    first ReLU."""

    def __init__(self, n_in: int, n_out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(n_in)
        self.act1 = ChannelReLU(n_in)
        self.conv1 = conv(n_in, n_out, 3, stride)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.act2 = ChannelReLU(n_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(n_out, n_out, 3)
        self.shortcut = conv(n_in, n_out, 1, stride) if stride != 1 or n_in != n_out else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.norm1(x))
        skip = x if self.shortcut is None else self.shortcut(out)
        return skip + self.conv2(self.dropout(self.act2(self.norm2(self.conv1(out)))))


class WideResNet(nn.Module):
    """Wide residual network (Zagoruyko and Komodakis 2016) of depth 6 n + 4 and `widen` times 16, 32, 64 channels."""

    def __init__(self, depth: int, widen: int, inputs: InputShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = conv(inputs.channels, 16, 3)
        self.stages = nn.ModuleList()
        n_in = 16
        for s in range(3):
            stage, n_out = nn.Sequential(), (16 << s) * widen
            for b in range((depth - 4) // 6):
                stage.append(PreActivationBlock(n_in, n_out, 2 if s > 0 and b == 0 else 1, dropout))
                n_in = n_out
            self.stages.append(stage)
        self.norm = nn.BatchNorm2d(n_in)
        self.act = ChannelReLU(n_in)
        self.classifier = nn.Linear(n_in, inputs.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for stage in self.stages:
            x = stage(x)
        return self.classifier(self.act(self.norm(x)).mean((2, 3)))


def of_size(depth: int, widen: int) -> Callable[[ModelConfig, InputShape], nn.Module]:
    def build(config: ModelConfig, inputs: InputShape) -> nn.Module:
        fixed_width(config)
        return WideResNet(depth, widen, inputs, config.dropout)

    return build


wrn_16_8, wrn_16_10, wrn_22_2 = of_size(16, 8), of_size(16, 10), of_size(22, 2)
wrn_28_2, wrn_28_8 = of_size(28, 2), of_size(28, 8)
