"""GMP, AC/DC and IMP: how many weights stay when, which, and what becomes of weights and momentum."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from baselines.acdc import ACDC, ACDCOptions
from baselines.gmp import GMP, GMPOptions
from baselines.imp import IMP, IMPOptions, n_prunings
from harness.config import build_config
from harness.errors import HarnessError
from harness.sparse.pruning import top_k_over_layers
from harness.sparse.schedules import Clock
from harness.train.job import build_job
from harness.train.loop import adapt, take_step
from harness.train.run import execute
from tests.baselines.layers import one_layer

SHAPES = {"a": (20, 30), "b": (20, 20)}  # 1,000 weights

SMALL: dict[str, Any] = {
    "model": {"name": "lenet_300_100"},
    "data": {"name": "digits", "batch_size": 240},
    "optimizer": {"lr": 0.1},
    "schedule": {"epochs": 4, "law": "cosine"},
    "engine": {"device": "cpu"},
}


def test_the_largest_of_all_layers_are_kept_and_ties_go_to_the_earlier_layer() -> None:
    scores = {"a": torch.tensor([[1.0, 5.0]]), "b": torch.tensor([[5.0, 2.0, 5.0]])}
    kept = top_k_over_layers(scores, 2)
    assert {layer: mask.tolist() for layer, mask in kept.items()} == {"a": [[False, True]], "b": [[True, False, False]]}


@pytest.mark.parametrize("distribution", ["global", "uniform", "erk"])
def test_gmp_follows_the_cubic_and_is_exact_at_its_borders(distribution: str) -> None:
    options = GMPOptions(density=0.1, begin=0.1, end=0.5, interval=30, distribution=distribution)  # type: ignore[arg-type]
    method = GMP(options, Clock(total_steps=1_000, steps_per_epoch=10), seed=0)
    method.bind(1_000, SHAPES)
    assert [method.total_at(step) for step in (0, 99, 100, 129)] == [1_000] * 4
    # a quarter, half and three quarters of the way are 100, 200, 300 of 400 steps; updates lie 30 apart: 90, 180, 300
    for step, since in ((200, 90), (300, 180), (400, 300)):
        pruned = 900 * (1 - (1 - since / 400) ** 3)
        assert method.total_at(step) == pytest.approx(1_000 - pruned, abs=2)
    assert [method.total_at(step) for step in (500, 501, 1_000)] == [100] * 3
    assert method.total_at(499) > 100
    assert [step for step in range(1_001) if method.update_due(step)] == [*range(130, 500, 30), 500]
    budgets = [method.budgets_at(step) for step in range(1_001)]
    if distribution == "global":
        assert budgets == [None] * 1_001
    else:
        for before, after in itertools.pairwise(b for b in budgets if b is not None):
            assert all(after[layer] <= before[layer] for layer in before)


def test_gmp_prunes_the_smallest_and_recovery_lets_them_return() -> None:
    weights = torch.tensor([[1.0, -2.0, 3.0, -4.0]])
    for recover in (False, True):
        options = GMPOptions(density=0.25, begin=0.0, end=0.5, interval=250, power=1, recover=recover)
        engine, method = one_layer(GMP, options, weights)
        parameter = engine.stored("0")
        engine.write_slot(parameter, "momentum", torch.ones(1, 4))
        assert method.total_at(250) == 3
        engine.set_mask("0", method.new_masks(250)["0"])
        assert engine.mask("0").tolist() == [[False, True, True, True]]
        assert parameter.tolist() == [[1.0 if recover else 0.0, -2.0, 3.0, -4.0]]
        assert engine.read_slot(parameter, "momentum").tolist() == [[1.0 if recover else 0.0, 1.0, 1.0, 1.0]]
        # no gradient reaches a pruned weight either way
        engine.model(torch.ones(1, 4)).sum().backward()
        assert engine.read_gradient(parameter).tolist() == [[0.0, 1.0, 1.0, 1.0]]
        # the others shrink below it; the next pruning keeps one
        engine.write(parameter, torch.tensor([[float(parameter.detach()[0, 0]), -0.5, 0.4, -0.3]]))
        engine.set_mask("0", method.new_masks(500)["0"])
        assert engine.mask("0").tolist() == [[recover, not recover, False, False]]


def test_gmp_refuses_to_end_before_it_begins() -> None:
    with pytest.raises(HarnessError, match="pruning must end after it begins"):
        build_config({**SMALL, "method": {"name": "gmp", "density": 0.1, "begin": 0.5, "end": 0.5}}, "test")


def test_acdc_switches_and_resets_momentum_where_a_dense_phase_starts() -> None:
    options = ACDCOptions(density=0.5, sparse_from=(0.1, 0.3), dense_from=(0.2,))
    engine, method = one_layer(ACDC, options, torch.tensor([[1.0, -2.0, 3.0, -4.0]]))
    assert [step for step in range(1_001) if method.update_due(step)] == [100, 200, 300]
    assert [method.total_at(step) for step in (0, 99, 100, 199, 200, 299, 300, 1_000)] == [4, 4, 2, 2, 4, 4, 2, 2]
    assert [method.resets_momentum(step) for step in (100, 200, 300)] == [False, True, False]
    assert [method.is_final(step) for step in (99, 100, 200, 300)] == [False, True, False, True]
    engine.set_mask("0", method.new_masks(100)["0"])
    assert engine.stored("0").tolist() == [[0.0, 0.0, 3.0, -4.0]]
    engine.set_mask("0", method.new_masks(200)["0"])
    assert engine.mask("0").all()
    assert engine.stored("0").tolist() == [[0.0, 0.0, 3.0, -4.0]], "pruned weights restart from zero"


def test_acdc_momentum_in_a_run(tmp_path: Path) -> None:
    method = {"name": "acdc", "density": 0.1, "sparse_from": [0.25, 0.75], "dense_from": [0.5]}
    job = build_job(build_config({**SMALL, "method": method}, "test"), 1, tmp_path)
    step = 0
    while step < 10:
        for batch in job.loader.train(job.clock.epoch(step)):
            step += 1
            take_step(job, step, batch)
            largest = float(job.engine.read_slot(job.engine.stored("fc1"), "momentum").abs().max())
            assert (largest == 0) == (step == 10)
            if step == 10:
                break


def test_acdc_refuses_phases_that_do_not_alternate() -> None:
    with pytest.raises(HarnessError, match="phases alternate and end compressed"):
        build_config({**SMALL, "method": {"name": "acdc", "density": 0.1, "dense_from": [0.15]}}, "test")


@pytest.mark.parametrize(
    ("density", "totals"),
    [(0.512, [1_000, 800, 640, 512]), (0.5, [1_000, 800, 640, 512, 500]), (0.3, [1_000, 800, 640, 512, 409, 327, 300])],
)
def test_imp_prunes_exactly_a_fifth_per_round(density: float, totals: list[int]) -> None:
    """ceil(.2 x 512) = 103 leaves 409; ceil(.2 x 409) = 82 leaves 327. The last round ends on the density asked for."""
    options = IMPOptions(density=density)
    length = IMP.length(options, 50)
    assert length == 50 * len(totals)
    method = IMP(options, Clock(total_steps=length, steps_per_epoch=10, schedule_steps=50), seed=0)
    method.bind(1_000, SHAPES)
    assert [method.total_at(50 * r + 1) for r in range(len(totals))] == totals
    assert [method.total_at(50 * r + 50) for r in range(len(totals))] == totals, "what a round trained is still whole"
    assert [step for step in range(length + 1) if method.starts_round(step)] == list(range(50, length, 50))
    assert [method.schedule_step(step) for step in (0, 49, 50, 99, 100)] == [0, 49, 0, 49, 0]
    assert not method.is_final(length - 50)
    assert method.is_final(length - 49)
    assert method.is_final(length)


@given(
    shape=st.tuples(st.integers(2, 60), st.integers(2, 60)),
    density=st.floats(0.02, 0.9),
    fraction=st.floats(0.1, 0.5),
)
@settings(max_examples=100, deadline=None)
def test_imp_masks_hold_exactly_the_weights_their_round_says(
    shape: tuple[int, int], density: float, fraction: float
) -> None:
    options = IMPOptions(density=density, fraction=fraction)
    clock = Clock(total_steps=IMP.length(options, 5), steps_per_epoch=5, schedule_steps=5)
    engine, method = one_layer(IMP, options, torch.randn(shape, generator=torch.Generator().manual_seed(0)), clock)
    for step in range(5, clock.total_steps, 5):
        engine.set_mask("0", method.new_masks(step)["0"])
        assert int(engine.mask("0").sum()) == method.total_at(step + 1)


def test_14_rounds_leave_4_4_percent() -> None:
    assert n_prunings(0.8**14, 0.2) == 14
    assert n_prunings(1.0, 0.2) == 0


def test_imp_rewinding_to_a_later_step_shortens_the_rounds() -> None:
    options = IMPOptions(density=0.64, rewind=0.2)
    assert IMP.length(options, 50) == 50 + 2 * 40
    method = IMP(options, Clock(total_steps=130, steps_per_epoch=10, schedule_steps=50), seed=0)
    method.bind(1_000, SHAPES)
    assert [step for step in range(131) if method.saves_at(step)] == [10]
    assert [step for step in range(131) if method.starts_round(step)] == [50, 90]
    assert [method.schedule_step(step) for step in (9, 49, 50, 89, 90)] == [9, 49, 10, 49, 10]


def test_imp_rewinds_weights_and_optimizer_and_its_masks_only_shrink(tmp_path: Path) -> None:
    config = build_config({**SMALL, "method": {"name": "imp", "density": 0.64}, "schedule": {"epochs": 2}}, "test")
    job = build_job(config, 1, tmp_path)
    first = {name: value.clone() for name, value in job.engine.state().items()}
    masks, step = [job.engine.mask("fc1").clone()], 0
    while step < job.clock.total_steps:
        for batch in job.loader.train(job.clock.epoch(step)):
            trained = job.engine.stored("fc1").detach().clone()
            adapt(job, step)
            if job.method.starts_round(step):
                mask = job.engine.mask("fc1").clone()
                assert not (mask & ~masks[-1]).any()
                # within the layer, what stays is larger than what goes
                went = masks[-1] & ~mask
                assert trained.abs()[mask].min() >= trained.abs()[went].max()
                masks.append(mask)
                assert torch.equal(job.engine.stored("fc1"), first["fc1.parametrizations.weight.original"] * mask)
                assert torch.equal(job.engine.model.get_parameter("fc1.bias"), first["fc1.bias"])
                assert not job.engine.read_slot(job.engine.stored("fc1"), "momentum").any()
            step += 1
            take_step(job, step, batch)
            if step == job.clock.total_steps:
                break
    assert len(masks) == 3


def test_imp_reports_all_its_rounds(tmp_path: Path) -> None:
    config = build_config({**SMALL, "method": {"name": "imp", "density": 0.5}, "schedule": {"epochs": 1}}, "test")
    *evaluations, result = list(execute(config, 1, tmp_path))
    # each evaluation is of what a round trained, at the number of weights it trained with
    n = [result["n_weights"]]
    for _ in range(3):
        n.append(n[-1] - -(-n[-1] // 5))
    assert [e["n_active"] for e in evaluations] == [*n, result["n_active"]]
    assert all(e["val_accuracy"] > 0.3 for e in evaluations)
    assert result["steps"] == 5 * 5
    assert result["epochs"] == 5
    assert result["n_active"] == round(0.5 * result["n_weights"])
    masks = load_file(tmp_path / result["run_id"] / "masks.safetensors")
    assert sum(int(mask.sum()) for mask in masks.values()) == result["n_active"]
