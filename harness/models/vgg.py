from __future__ import annotations

from torch import Tensor, nn

from harness.config.schema import ModelConfig
from harness.models.shape import ChannelReLU, InputShape, fixed_width

PLAN_16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
PLAN_19 = (64, 64, "M", 128, 128, "M", *(256,) * 4, "M", *(512,) * 4, "M", *(512,) * 4)


def convolutions(plan: tuple[int | str, ...], n_in: int, scale: float) -> nn.Sequential:
    """3 x 3 convolutions of so many channels, each with batch norm of that scale and ReLU; 'M': max-pooling by 2."""
    layers = nn.Sequential()
    for entry in plan:
        if entry == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        n_out = int(entry)
        norm = nn.BatchNorm2d(n_out)
        nn.init.constant_(norm.weight, scale)
        layers.extend([nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), norm, ChannelReLU(n_out)])
        n_in = n_out
    return layers


class VGG16(nn.Module):
    """VGG-16 for 32 x 32 images as in Liu et al. 2020: 13 convolutions, batch norm scaled 0.5; 512 units."""

    def __init__(self, inputs: InputShape) -> None:
        super().__init__()
        self.features = convolutions(PLAN_16, inputs.channels, scale=0.5)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Linear(512, 512)
        self.norm = nn.BatchNorm1d(512)
        self.act = ChannelReLU(512)
        self.classifier = nn.Linear(512, inputs.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(x)).flatten(1)
        return self.classifier(self.act(self.norm(self.fc1(x))))


class VGG19(nn.Module):
    """VGG-19 for 32 x 32 images as the GraSP and GraNet papers compare on: 16 convolutions with batch norm, 1 layer."""

    def __init__(self, inputs: InputShape) -> None:
        super().__init__()
        self.features = convolutions(PLAN_19, inputs.channels, scale=1.0)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(512, inputs.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))


def vgg19(config: ModelConfig, inputs: InputShape) -> nn.Module:
    fixed_width(config)
    return VGG19(inputs)


def vgg16(config: ModelConfig, inputs: InputShape) -> nn.Module:
    fixed_width(config)
    return VGG16(inputs)
