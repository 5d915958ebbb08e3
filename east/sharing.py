"""Weight sharing inside a residual stage (EAST, spec 3): blocks after the R-th reuse the R-th block's convolutions."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from harness.config.schema import Section
from harness.errors import HarnessError
from harness.sparse.noise import keyed_generator


class SharingOptions(Section):
    ratio: int = Field(2, ge=2)
    """R: blocks per stage with weights of their own. Block 0 has another shape, so at least 2."""


class SharedConv2d(nn.Module):
    """sigma * (donor's weight), in the donor's geometry. sigma is a trained scalar, neither masked nor counted."""

    def __init__(self, donor: nn.Conv2d, sigma: Tensor) -> None:
        super().__init__()
        self._donor = (donor,)  # a tuple hides it from module registration: one tensor, one mask, one momentum
        self.sigma = nn.Parameter(sigma)

    @property
    def donor(self) -> nn.Conv2d:
        return self._donor[0]

    def forward(self, x: Tensor) -> Tensor:
        donor = self.donor
        return F.conv2d(x, self.sigma * donor.weight, None, donor.stride, donor.padding, donor.dilation, donor.groups)


def share_weights(model: nn.Module, ratio: int, seed: int) -> int:
    """Make blocks `ratio`, `ratio` + 1, ... of each stage use the convolutions of block `ratio` - 1; returns how many.

    The model lists its blocks per stage in `stages`. Raises HarnessError when there is nothing to share.
    """
    stages = getattr(model, "stages", None)
    if stages is None:
        raise HarnessError(f"method.sharing: {type(model).__name__} has no residual stages to share weights in")
    n_shared = 0
    for s, stage in enumerate(stages):
        blocks = list(stage)
        for b in range(ratio, len(blocks)):
            for name, donor in list(blocks[ratio - 1].named_children()):
                if isinstance(donor, nn.Conv2d):
                    sigma = torch.rand(1, generator=keyed_generator(seed, "sigma", f"{s}.{b}.{name}"))
                    setattr(blocks[b], name, SharedConv2d(donor, sigma))
                    n_shared += 1
    if n_shared == 0:
        sizes = [len(stage) for stage in stages]
        raise HarnessError(
            f"method.sharing: nothing to share with ratio {ratio} in stages of {sizes} blocks: it needs a stage "
            f"with more than {ratio} blocks (ResNet-34 and ResNet-50 have them), or sharing: null"
        )
    return n_shared
