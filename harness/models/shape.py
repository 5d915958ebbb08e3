from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from harness.config.schema import ModelConfig
from harness.errors import HarnessError


@dataclass(frozen=True, slots=True)
class InputShape:
    """What a network sees and answers: [batch, channels, size, size] images of n_classes classes."""

    channels: int
    size: int
    n_classes: int


def fixed_width(config: ModelConfig) -> None:
    """For networks whose widths are part of their name."""
    if config.width is not None:
        raise HarnessError(f"model.width: {config.name} has fixed widths, got {config.width}: leave it out, or null")


class ChannelReLU(nn.ReLU):
    """ReLU that knows its channels, so that a method can put another activation in its place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
