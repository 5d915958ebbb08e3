from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, slots=True)
class InputShape:
    """What a network sees and answers: [batch, channels, size, size] images of n_classes classes."""

    channels: int
    size: int
    n_classes: int


class ChannelReLU(nn.ReLU):
    """ReLU that knows its channels, so that a method can put another activation in its place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
