from __future__ import annotations

from torch import Tensor, nn

from harness.config.schema import ModelConfig
from harness.models.shape import ChannelReLU, InputShape, fixed_width


class LeNet300(nn.Module):
    """Two hidden layers of 300 and 100 units (LeCun et al. 1998), biases throughout."""

    def __init__(self, n_inputs: int, n_classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(n_inputs, 300)
        self.act1 = ChannelReLU(300)
        self.fc2 = nn.Linear(300, 100)
        self.act2 = ChannelReLU(100)
        self.classifier = nn.Linear(100, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.fc1(x.flatten(1)))
        return self.classifier(self.act2(self.fc2(x)))


class LeNet5(nn.Module):
    """LeNet-5 as in Caffe: 20 and 50 filters of 5 x 5, each ReLU then 2 x 2 max-pooling; 500 units."""

    def __init__(self, inputs: InputShape) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs.channels, 20, 5)
        self.act1 = ChannelReLU(20)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.act2 = ChannelReLU(50)
        self.pool = nn.MaxPool2d(2)
        side = ((inputs.size - 4) // 2 - 4) // 2
        self.fc1 = nn.Linear(50 * side * side, 500)
        self.act3 = ChannelReLU(500)
        self.classifier = nn.Linear(500, inputs.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act1(self.conv1(x)))
        x = self.pool(self.act2(self.conv2(x)))
        return self.classifier(self.act3(self.fc1(x.flatten(1))))


def lenet_300_100(config: ModelConfig, inputs: InputShape) -> nn.Module:
    fixed_width(config)
    return LeNet300(inputs.channels * inputs.size * inputs.size, inputs.n_classes)


def lenet5_caffe(config: ModelConfig, inputs: InputShape) -> nn.Module:
    fixed_width(config)
    return LeNet5(inputs)
