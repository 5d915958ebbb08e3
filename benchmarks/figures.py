"""Figures with their goals: contenders take turns in one run, and what is told is their ratio turn by turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """A ratio, measured once or several times, beside what it should be. at_least: whether more is better."""

    name: str
    values: tuple[float, ...]
    goal: float | None = None
    stretch: float | None = None
    at_least: bool = False
    note: str = ""
    profile: tuple[tuple[str, float, float], ...] = ()
    """Where the two differ: an operator, and its milliseconds in a step of each, or in what its name says."""

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def met(self) -> str:
        if self.goal is None:
            return ""
        for name, bound in (("stretch", self.stretch), ("goal", self.goal)):
            if bound is not None and (self.median >= bound if self.at_least else self.median <= bound):
                return name
        return "missed"

    def plain(self) -> dict[str, Any]:
        return {
            "name": self.name, "median": self.median, "least": min(self.values), "most": max(self.values),
            "n": len(self.values), "goal": self.goal, "stretch": self.stretch, "at_least": self.at_least,
            "met": self.met, "note": self.note,
            "profile": [list(line) for line in self.profile] if self.met == "missed" else [],
        }  # fmt: skip


def take_turns(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round; who begins changes from round to round, as machines warm up and drift.

    Each has one turn before, which does not count.
    """
    for turn in contenders.values():
        turn()
    names, taken = list(contenders), {name: [0.0] * rounds for name in contenders}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            began = time.perf_counter()
            contenders[name]()
            taken[name][number] = time.perf_counter() - began
    return taken


def ratios(of: Sequence[float], over: Sequence[float]) -> tuple[float, ...]:
    """Turn by turn."""
    return tuple(a / b for a, b in zip(of, over, strict=True))


def differences(
    of: Callable[[], object], over: Callable[[], object], n_steps: int, n_turns: int = 5, most: int = 6
) -> tuple[tuple[str, float, float], ...]:
    """The operators whose own time on the CPU differs most between two contenders that take `n_steps` steps a turn."""
    ours, theirs = (_own_times(turn, n_turns, n_steps * n_turns) for turn in (of, over))
    names = sorted(ours | theirs, key=lambda name: -abs(ours.get(name, 0.0) - theirs.get(name, 0.0)))
    return tuple((name, ours.get(name, 0.0), theirs.get(name, 0.0)) for name in names[:most])


def _own_times(turn: Callable[[], object], n_turns: int, n_steps: int) -> dict[str, float]:
    """Milliseconds of a step by operator, what it calls not included."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(n_turns):
            turn()
    return {event.key: event.self_cpu_time_total / 1000 / n_steps for event in profile.key_averages()}


def show(title: str, figures: Sequence[Figure]) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("figure", "median", "least", "most", "goal", "stretch", "met", ""):
        table.add_column(column, justify="left" if column in ("figure", "met", "") else "right")
    for figure in figures:
        sign = ">= " if figure.at_least else "<= "
        bounds = (sign + f"{b:g}" if b is not None else "" for b in (figure.goal, figure.stretch))
        numbers = (f"{v:.3g}" for v in (figure.median, min(figure.values), max(figure.values)))
        table.add_row(figure.name, *numbers, *bounds, figure.met, figure.note)
    Console(width=150).print(table)
