from __future__ import annotations

from torch import Tensor, nn

from harness.config.schema import ModelConfig
from harness.models.shape import ChannelReLU, InputShape, fixed_width

PLAN = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)


class VGG16(nn.Module):
    """VGG-16 for 32 x 32 images as in Liu et al. 2020: 13 convolutions, batch norm scaled 0.5; 512 units."""

    def __init__(self, inputs: InputShape) -> None:
        super().__init__()
        self.features = nn.Sequential()
        n_in = inputs.channels
        for entry in PLAN:
            if entry == "M":
                self.features.append(nn.MaxPool2d(2))
                continue
            n_out = int(entry)
            norm = nn.BatchNorm2d(n_out)
            nn.init.constant_(norm.weight, 0.5)
            self.features.extend([nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), norm, ChannelReLU(n_out)])
            n_in = n_out
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Linear(n_in, n_in)
        self.norm = nn.BatchNorm1d(n_in)
        self.act = ChannelReLU(n_in)
        self.classifier = nn.Linear(n_in, inputs.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(x)).flatten(1)
        return self.classifier(self.act(self.norm(self.fc1(x))))


def vgg16(config: ModelConfig, inputs: InputShape) -> nn.Module:
    fixed_width(config)
    return VGG16(inputs)
