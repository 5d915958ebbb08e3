"""An LSTM that reads an image row by row, each of its gates' matrices a layer of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from harness.config.schema import WIDTHS, ModelConfig
from harness.models.shape import InputShape

GATES = ("i", "f", "g", "o")
"""Input, forget, update and output gate, in the order torch's LSTM has them."""


class Gates(nn.Module):
    """One matrix [units, inputs] per gate, uniform in +-1 / sqrt(units)."""

    def __init__(self, n_inputs: int, n_units: int) -> None:
        super().__init__()
        for gate in GATES:
            matrix = nn.Linear(n_inputs, n_units, bias=False)
            nn.init.uniform_(matrix.weight, -1 / math.sqrt(n_units), 1 / math.sqrt(n_units))
            self.add_module(gate, matrix)

    def stacked(self) -> Tensor:
        """[4 units, inputs]"""
        return torch.cat([self.get_submodule(gate).weight for gate in GATES])  # type: ignore[misc]


class LSTMCell(nn.Module):
    """Eight matrices, of each gate one on the cell's input and one on its state; biases zero at the start."""

    def __init__(self, n_inputs: int, n_units: int) -> None:
        super().__init__()
        self.on_input = Gates(n_inputs, n_units)
        self.on_state = Gates(n_units, n_units)
        self.bias = nn.Parameter(torch.zeros(4 * n_units))

    def tensors(self) -> list[Tensor]:
        """One layer's part of what torch's LSTM takes; of its two biases the second is nothing."""
        return [self.on_input.stacked(), self.on_state.stacked(), self.bias, torch.zeros_like(self.bias)]


class LSTM(nn.Module):
    """Two layers, and a linear classifier on the last state. Images: [batch, channels, rows, columns]."""

    def __init__(self, inputs: InputShape, n_units: int) -> None:
        super().__init__()
        self.n_units = n_units
        self.cell1 = LSTMCell(inputs.channels * inputs.size, n_units)
        self.cell2 = LSTMCell(n_units, n_units)
        self.classifier = nn.Linear(n_units, inputs.n_classes)
        for parameter in self.classifier.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(2, 0, 1, 3).flatten(2)
        start = x.new_zeros(2, x.shape[0], self.n_units)
        weights = [*self.cell1.tensors(), *self.cell2.tensors()]
        states, *_ = torch.lstm(rows, (start, start), weights, True, 2, 0.0, self.training, False, False)
        return self.classifier(states[-1])

    def weight_uses(self, x: Tensor) -> Iterator[tuple[nn.Module, int]]:
        """Layers whose weights this module computes with itself, and how often per image: once per row."""
        for cell in (self.cell1, self.cell2):
            for gates in (cell.on_input, cell.on_state):
                for gate in GATES:
                    yield gates.get_submodule(gate), x.shape[2]


def lstm(config: ModelConfig, inputs: InputShape) -> nn.Module:
    return LSTM(inputs, config.width or WIDTHS["lstm"])
