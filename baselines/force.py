from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from baselines.snip import sensitivity
from harness.sparse.method import Masks
from harness.sparse.scoring import AtInitialisation, Draw, ScoredNetwork, ScoredOptions, rounds_of


class IterativeOptions(ScoredOptions):
    name: str = "iter_snip"
    norm_mode: Literal["train", "eval"] = "train"
    """Normalisation while scoring."""

    rounds: int = Field(60, ge=1)
    law: Literal["exponential", "linear"] = "exponential"
    """How density falls over rounds."""


class IterativeSNIP(AtInitialisation):
    """SNIP in rounds, each on new batches; what is pruned stays pruned."""

    Options: ClassVar = IterativeOptions
    options: IterativeOptions
    source: ClassVar[str] = "de Jorge et al. 2021"
    returns: ClassVar[bool] = False
    """Whether a weight may come back in a later round, by the gradient at its place and its initial value."""

    def scored_masks(self, network: ScoredNetwork, draw: Draw) -> Masks:
        o = self.options
        network.mode(o.norm_mode)
        network.pass_gradients(everywhere=self.returns)
        for share in rounds_of(o.density, o.rounds, o.law):
            scores = sensitivity(network, network.gradients(*(draw.batch() for _ in range(o.n_batches))))
            among = None if self.returns else network.masks()
            network.mask(self.largest(scores, share, among))
        return network.masks()


class ForceOptions(IterativeOptions):
    name: str = "force"


class FORCE(IterativeSNIP):
    """Iterative SNIP whose weights may return while masks are being chosen."""

    Options: ClassVar = ForceOptions
    returns: ClassVar[bool] = True
