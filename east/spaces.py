"""Where EAST's own parameters are searched: valid by construction, as phases and cycles end inside training."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from harness.config.space import Proposer, Space

Range = tuple[float, float]


class CycleSpace(Space):
    """Cyclic density. No cycles are `null`; length, growth, height and shape are proposed only where there are some."""

    needs_epochs: ClassVar[bool] = True
    kind: Literal["cycles"]
    n_cycles: tuple[int, int] = (0, 4)
    share: Range = (0.1, 0.8)
    """Part of the run that all cycles together take."""

    growth: Range = (0.5, 2.0)
    """Each cycle's length over the one before, from two cycles on."""

    multiplier: Range = (1.5, 6.0)
    shape: tuple[Literal["cosine", "triangular"], ...] = Field(("cosine", "triangular"), min_length=1)

    @model_validator(mode="after")
    def _inside_the_run(self) -> CycleSpace:
        _check("n_cycles", self.n_cycles, 0, 12)
        _check("share", self.share, 0.01, 0.95)
        _check("growth", self.growth, 0.1, 10)
        _check("multiplier", self.multiplier, 1, 1e6)
        return self

    def propose(self, trial: Proposer, key: str, epochs: float) -> dict[str, Any] | None:
        n_cycles = trial.suggest_int(f"{key}.n_cycles", *self.n_cycles)
        if n_cycles == 0:
            return None
        share = trial.suggest_float(f"{key}.share", *self.share)
        growth = trial.suggest_float(f"{key}.growth", *self.growth, log=True) if n_cycles > 1 else 1.0
        return {
            "n_cycles": n_cycles,
            "cycle_epochs": share * epochs / sum(growth**i for i in range(n_cycles)),
            "growth": growth,
            "multiplier": trial.suggest_float(f"{key}.multiplier", *self.multiplier, log=True),
            "shape": trial.suggest_categorical(f"{key}.shape", list(self.shape)),
        }


class PhaseSpace(Space):
    """DyReLU's phase-out. It ends after it starts and not after the run; freezing lies inside it, or is off."""

    needs_epochs: ClassVar[bool] = True
    kind: Literal["phase"]
    present: tuple[bool, ...] = Field((True,), min_length=1)
    """[false, true] also proposes to train without DyReLU."""

    start: Range = (0.0, 0.5)
    """Where beta begins to fall, as a part of the run."""

    length: Range = (0.1, 0.9)
    """How long it falls, as a part of what is left of the run."""

    freeze: tuple[bool, ...] = Field((False, True), min_length=1)
    """Whether hyper-networks stop being trained at some time of the phase-out."""

    reduction: tuple[int, ...] = Field((2, 4, 8), min_length=1)

    @model_validator(mode="after")
    def _inside_the_run(self) -> PhaseSpace:
        _check("start", self.start, 0, 0.9)
        _check("length", self.length, 0.01, 1)
        return self

    def propose(self, trial: Proposer, key: str, epochs: float) -> dict[str, Any] | None:
        if len(self.present) > 1 and not trial.suggest_categorical(f"{key}.present", list(self.present)):
            return None
        if self.present == (False,):
            return None
        start = trial.suggest_float(f"{key}.start", *self.start) * epochs
        length = trial.suggest_float(f"{key}.length", *self.length) * (epochs - start)
        freeze = trial.suggest_categorical(f"{key}.freeze", list(self.freeze))
        return {
            "start_epoch": start,
            "end_epoch": start + length,
            "freeze_epoch": start + trial.suggest_float(f"{key}.freeze_at", 0.0, 1.0) * length if freeze else None,
            "reduction": trial.suggest_categorical(f"{key}.reduction", list(self.reduction)),
        }


def _check(name: str, found: tuple[float, float], low: float, high: float) -> None:
    if not low <= found[0] <= found[1] <= high:
        raise ValueError(f"{name} needs {low:g} <= low <= high <= {high:g}, got {list(found)}")
