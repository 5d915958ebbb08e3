"""Masks chosen from the untrained network: scored on one rank, on images drawn for it, and sent to all."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from harness.config.schema import RunConfig
from harness.data.batches import Loader, Share
from harness.data.open import open_data
from harness.errors import CheckFailed, HarnessError
from harness.models.norm import on_one_rank
from harness.sparse.masks import MaskedWeight, viewed_layers
from harness.sparse.method import Method
from harness.sparse.scoring import Images
from harness.train.ranks import Ranks


class TrainingDraw:
    """Whole training batches in the order of epochs that training never has: 0, -1, ..."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.shape = (loader.inputs.channels, loader.inputs.size, loader.inputs.size)
        self.n_classes = loader.inputs.n_classes
        self._batches = self._endless()
        self._queues: list[list[Tensor]] = [[] for _ in range(self.n_classes)]

    def _endless(self) -> Iterator[Images]:
        epoch = 0
        while True:
            for batch in self.loader.train(epoch):
                real = batch.weight > 0
                yield batch.images[real], batch.labels[real]
            epoch -= 1

    def batch(self) -> Images:
        return next(self._batches)

    def balanced(self, per_class: int) -> Images:
        n_looked = 0
        while min(len(queue) for queue in self._queues) < per_class:
            images, labels = self.batch()
            for image, label in zip(images, labels.tolist(), strict=True):
                self._queues[label].append(image)
            n_looked += len(labels)
            if n_looked > 2 * per_class * self.loader.sizes["train"]:
                missing = [i for i, queue in enumerate(self._queues) if len(queue) < per_class]
                raise HarnessError(f"no {per_class} training images of classes {missing[:5]} to score on")
        chosen = [(queue.pop(0), i) for _ in range(per_class) for i, queue in enumerate(self._queues)]
        labels = torch.tensor([label for _, label in chosen], device=chosen[0][0].device)
        return torch.stack([image for image, _ in chosen]), labels


def choose_masks(
    model: nn.Module, method: Method, config: RunConfig, seed: int, ranks: Ranks, device: torch.device
) -> None:
    """Give the model the masks that its method chooses; the same on every rank, whatever their number.

    The method works on a copy: weights, running statistics and everything else of the model stay as they were made.
    """
    chosen: dict[str, Tensor] = {}
    fault: Exception | None = None
    if ranks.rank == 0:
        try:
            loader = open_data(config.data, seed, Share(), device, config.evaluation.batch_size)
            chosen = method.choose_masks(on_one_rank(copy.deepcopy(model)).to(device), TrainingDraw(loader))
            total, n_chosen = method.total_at(0), sum(int(mask.sum()) for mask in chosen.values())
            if n_chosen != total:
                raise CheckFailed(f"{config.method.name} chose {n_chosen} weights before the first step, not {total}")
        except Exception as error:
            fault = error  # raised once the other ranks know, or they would wait for its masks
    if ranks.max(torch.tensor(int(fault is not None), device=device)):
        raise fault or CheckFailed("rank 0 could not choose the masks before the first step: its message says why")
    for layer, (parameter, view) in viewed_layers(model).items():
        assert isinstance(view, MaskedWeight)
        mask = chosen[layer].to(device) if ranks.rank == 0 else torch.zeros_like(view.mask, device=device)
        view.mask.copy_(ranks.from_first(mask))
        with torch.no_grad():
            parameter.mul_(view.mask)
