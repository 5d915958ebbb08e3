from __future__ import annotations

from torch import Tensor, nn

from harness.config.schema import ModelConfig
from harness.models.shape import ChannelReLU, InputShape


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


def lenet_300_100(config: ModelConfig, inputs: InputShape) -> nn.Module:
    return LeNet300(inputs.channels * inputs.size * inputs.size, inputs.n_classes)
