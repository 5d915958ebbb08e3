"""Dynamic methods whose budgets or rules are their own, by hand and by what must hold in every run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.cht import CHT, CHTOptions, paths_of_three
from baselines.deepr import DeepR, DeepROptions
from baselines.dsr import DSR, DSROptions
from baselines.granet import GraNet, GraNetOptions
from baselines.mest import EMS, MEST, EMSOptions, MESTOptions
from baselines.set import SETOriginal, SETOriginalOptions
from baselines.snfs import SNFS, SNFSOptions
from baselines.srigl import SRigL, SRigLOptions
from harness.config import build_config
from harness.errors import HarnessError
from harness.sparse.budgets import apportion
from harness.sparse.masks import viewed_layers
from harness.sparse.schedules import Clock
from harness.train.checks import current_masks
from harness.train.job import build_job
from harness.train.loop import adapt, take_step
from harness.train.run import execute
from tests.baselines.layers import one_layer

SHAPES = {"a": (30, 20), "b": (20, 30), "c": (10, 20)}


def bound(method_class: Any, options: Any, total_steps: int = 1000, per_epoch: int = 10) -> Any:
    method = method_class(options, Clock(total_steps=total_steps, steps_per_epoch=per_epoch), 0)
    method.bind(1400, SHAPES)
    return method


@given(
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 50)), min_size=1, max_size=6),
    st.floats(0, 1),
)
def test_apportioning_keeps_the_total_and_the_capacity(layers: list[tuple[float, int]], share: float) -> None:
    shares = {str(i): s for i, (s, _) in enumerate(layers)}
    capacity = {str(i): c for i, (_, c) in enumerate(layers)}
    total = int(share * sum(capacity.values()))
    counts = apportion(total, shares, capacity)
    assert sum(counts.values()) == total
    assert all(0 <= counts[n] <= capacity[n] for n in counts)


def test_apportioning_by_hand() -> None:
    assert apportion(10, {"a": 1, "b": 1}, {"a": 99, "b": 99}) == {"a": 5, "b": 5}
    assert apportion(10, {"a": 3, "b": 1}, {"a": 4, "b": 99}) == {"a": 4, "b": 6}, "what is full overflows"
    assert apportion(2, {"a": 1, "b": 1, "c": 1}, {"a": 9, "b": 9, "c": 9}) == {"a": 1, "b": 1, "c": 0}
    assert apportion(6, {"a": 1, "b": 0, "c": 0}, {"a": 2, "b": 2, "c": 6}) == {"a": 2, "b": 1, "c": 3}
    with pytest.raises(ValueError, match="cannot place 3 in 2"):
        apportion(3, {"a": 1}, {"a": 2})


def test_granets_density_falls_along_a_cubic_in_whole_updates() -> None:
    """s(k) = s_i + (s_f - s_i)(1 - (1 - (k - k0)/(k1 - k0))^3): from .5 to .9 in five updates of 1,400 weights."""
    method = bound(GraNet, GraNetOptions(density=0.1, initial_density=0.5, interval=100, end=0.5))
    expected = [700 - round(560 * (1 - (1 - k / 5) ** 3)) for k in range(6)]
    found = [method.total_at(100 * k + 50) for k in range(6)]
    assert found == pytest.approx(expected, abs=1)
    assert (found[0], found[5], method.total_at(1000)) == (700, 140, 140)
    assert [method.is_final(s) for s in (499, 500)] == [False, True]
    dense = bound(GraNet, GraNetOptions(density=0.1, initial_density=1.0, interval=100, end=0.5))
    assert dense.budgets_at(0) == {"a": 600, "b": 600, "c": 200}
    with pytest.raises(HarnessError, match="is too long"):
        bound(GraNet, GraNetOptions(density=0.1, interval=600, end=0.5))


def test_mests_two_bounds() -> None:
    """At 90 % sparse: to 92, 91 and 90 % and back to 90; or to 90 % and back to 85, 87.5 and 90."""
    em = bound(MEST, MESTOptions(density=0.1, interval=50))
    steps = (50, 600, 800)
    assert [sum(em.pruned[em.phase(s)].values()) for s in steps] == [112, 126, 140]
    assert [em.total_at(s) for s in steps] == [140, 140, 140]
    ems = bound(EMS, EMSOptions(density=0.1, interval=50))
    assert [sum(ems.pruned[ems.phase(s)].values()) for s in steps] == [140, 140, 140]
    assert [ems.total_at(s) for s in (0, 50, 562, 599, 600, 749, 750, 1000)] == [210] * 4 + [175] * 2 + [140] * 2
    assert [ems.is_final(s) for s in (749, 750)] == [False, True]
    with pytest.raises(ValueError, match="must not exceed"):
        MESTOptions(pruned_to=(1.0, 1.0, 1.0), grown_to=(0.9, 1.0, 1.0))


WEIGHTS = torch.tensor([[0.5, -0.1, 0.9, 0.2, -0.7, 0.0, 0.0, 0.0, 0.0, 0.0]])
MASK = torch.tensor([[True] * 6 + [False] * 4])


def test_set_as_first_published_drops_from_both_signs() -> None:
    """Of three positive weights a third goes, of two negative ones half; the one that never left zero goes too."""
    engine, method = one_layer(SETOriginal, SETOriginalOptions(density=0.6, drop_fraction=0.5), WEIGHTS)
    engine.mask("0").copy_(MASK)
    engine.write(engine.stored("0"), WEIGHTS)
    step = method.clock.steps_per_epoch
    assert method.update_due(step)
    assert method.resets_momentum(step)
    (new,) = method.new_masks(step).values()
    assert int(new.sum()) == 6
    assert new[0, [0, 2, 4]].all()  # .5 and .9 of .2, .5, .9; -.7 of -.1, -.7


def test_deepr_turns_no_sign() -> None:
    engine, method = one_layer(DeepR, DeepROptions(density=0.5, l1=0.1, noise=0.0), WEIGHTS)
    view, parameter = engine.view("0"), engine.stored("0")
    mask = view.mask.clone()
    assert bool(((parameter * view.sign) >= 0).all())
    assert bool((parameter[~mask] == 0).all())
    turned = mask.nonzero()[0]
    with torch.no_grad():
        parameter[tuple(turned)] = -parameter[tuple(turned)] - 0.1 * view.sign[tuple(turned)]
    method.before_step(1)
    (new,) = method.new_masks(1).values()
    assert int(new.sum()) == 5
    assert int((mask & ~new).sum()) <= 1
    kept = mask.clone()
    kept[tuple(turned)] = False
    assert bool(new[kept].all())
    (pull,) = torch.autograd.grad(method.extra_loss(), parameter)
    assert torch.equal(pull, 0.1 * parameter.detach().sign() * mask)


def test_deepr_shakes_active_weights_alone() -> None:
    engine, method = one_layer(DeepR, DeepROptions(density=0.5, l1=0.0, noise=2.0), torch.ones(100, 100))
    parameter, mask, gradients = engine.stored("0"), engine.mask("0"), []
    for step in (1, 2):
        method.before_step(step)
        gradients.append(torch.autograd.grad(method.extra_loss(), parameter)[0])
    assert not torch.equal(*gradients)
    for gradient in gradients:
        assert bool((gradient[~mask] == 0).all())
        assert abs(float(gradient[mask].mean())) < 4 * 2.0 / 5000**0.5
        assert float(gradient[mask].std()) == pytest.approx(2.0, rel=0.05)


def test_dsr_moves_its_threshold_to_prune_what_it_should() -> None:
    engine, method = one_layer(DSR, DSROptions(density=0.5, n_pruned=10, threshold=0.01), WEIGHTS)
    for n, factor in ((11, 1.0), (12, 0.5), (9, 1.0), (8, 2.0), (0, 2.0)):
        before = float(method.threshold)
        method.move_threshold(n)
        assert float(method.threshold) == before * factor
    engine.view("0").threshold.fill_(100.0)
    kept = method.survivors("0", engine.mask("0"))
    assert int(kept.sum()) == 1, "a layer keeps its largest weight"


def test_dsrs_intervals_grow() -> None:
    method = bound(DSR, DSROptions(density=0.1, intervals=(10, 50), interval_starts=(0.0, 0.5), stop=0.9))
    due = [s for s in range(1, 1001) if method.update_due(s)]
    assert due[:3] == [10, 20, 30]
    assert due[-3:] == [800, 850, 900]
    with pytest.raises(ValueError, match="one rising start per interval"):
        DSROptions(intervals=(10, 50), interval_starts=(0.1, 0.5))


def test_snfs_gives_to_layers_by_momentum() -> None:
    method = bound(SNFS, SNFSOptions(density=0.1, interval=10))
    masks = {n: torch.zeros(s, dtype=torch.bool) for n, s in SHAPES.items()}
    for mask in masks.values():
        mask.view(-1)[:40] = True
    momentum = {n: torch.full(s, v) for (n, s), v in zip(SHAPES.items(), (3.0, 1.0, 0.0), strict=True)}
    assert method.shared_out(80, momentum, masks, masks) == {"a": 60, "b": 20, "c": 0}
    full = {**masks, "a": torch.ones(SHAPES["a"], dtype=torch.bool)}
    full["a"].view(-1)[:10] = False
    assert method.shared_out(80, momentum, masks, full) == {"a": 9, "b": 71, "c": 0}, "99 % of ten places"
    with pytest.raises(HarnessError, match="grows where momentum is large"):
        build_config({"method": {"name": "snfs"}, "optimizer": {"momentum": 0.0, "nesterov": False}}, "test")


def fan_ins(mask: torch.Tensor) -> set[int]:
    return set(mask.flatten(1).sum(1).tolist()) - {0}


def test_srigl_by_hand() -> None:
    """Four neurons of six inputs, budget 8: two weights each. Neuron 3 has nothing that matters and goes; the others
    then hold two each, the largest first, filled up by gradient."""
    weights = torch.tensor([
        [9.0, 8.0, 0, 0, 0, 0], [7.0, 0.6, 0, 0, 0, 0], [6.0, 5.0, 0, 0, 0, 0], [0.2, 0.1, 0, 0, 0, 0],
    ])  # fmt: skip
    engine, method = one_layer(SRigL, SRigLOptions(density=1 / 3, drop_fraction=0.5, gamma=0.6), weights)
    assert fan_ins(engine.mask("0")) == {2}
    engine.mask("0").copy_(weights != 0)
    parameter = engine.stored("0")
    engine.write(parameter, weights)
    gradient = torch.zeros(4, 6)
    gradient[1, 4], gradient[0, 5], gradient[2, 3] = 3.0, 2.0, 1.0
    parameter.grad = gradient
    engine.hold_gradients()
    # n = 8, k = int(.45 * 8) = 3: the five largest are 9 8 7 6 5, the three largest gradients in rows 1, 0 and 2
    (new,) = method.new_masks(200).values()
    assert new.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 4], [2, 0], [2, 1]]
    kept = SRigL(SRigLOptions(density=1 / 3, keep_neurons=("0",), drop_fraction=0.5, gamma=0.6), method.clock, 0)
    kept.bind(24, {"0": (4, 6)})
    kept.tensors = engine
    (all_four,) = kept.new_masks(200).values()
    assert fan_ins(all_four) == {2}
    assert bool(all_four.any(1).all())


@given(
    st.integers(1, 12), st.integers(1, 12), st.floats(0.02, 1), st.booleans(), st.floats(0, 1),
    st.sampled_from(["current", "dense"]), st.integers(0, 99),
)  # fmt: skip
def test_srigls_active_neurons_have_one_fan_in_and_fit(
    n_out: int, n_in: int, density: float, ablate: bool, gamma: float, of: Any, seed: int
) -> None:
    density = max(density, 1 / (n_out * n_in))
    options = SRigLOptions(density=density, ablate=ablate, gamma=gamma, gamma_of=of, drop_fraction=0.4, interval=1)
    generator = torch.Generator().manual_seed(seed)
    engine, method = one_layer(SRigL, options, torch.randn(n_out, n_in, generator=generator))
    budget = method.ceiling["0"]
    for step in range(1, 5):
        engine.stored("0").grad = torch.randn(n_out, n_in, generator=generator)
        engine.hold_gradients()
        (new,) = method.new_masks(step).values()
        n_neurons = int(new.any(1).sum())
        assert fan_ins(new) == {method.fan_in("0", n_neurons)}
        assert budget - n_neurons < int(new.sum()) <= budget
        engine.set_mask("0", new)


def counted_paths(mask: torch.Tensor, o: int, i: int) -> float:
    """The score of a missing link, node by node from its definition."""
    n_out, n_in = mask.shape
    on_path = [(a, b) for a in range(n_out) for b in range(n_in) if mask[a, i] and mask[o, b] and mask[a, b]]
    outputs, inputs = {a for a, _ in on_path}, {b for _, b in on_path}
    score = 0.0
    for a in outputs:
        links = {b for b in range(n_in) if mask[a, b]} - {i}
        score += (1 + len(links & inputs)) / (1 + len(links - inputs))
    for b in inputs:
        links = {a for a in range(n_out) if mask[a, b]} - {o}
        score += (1 + len(links & outputs)) / (1 + len(links - outputs))
    return score


@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 999))
def test_links_are_predicted_by_paths_of_three(n_out: int, n_in: int, seed: int) -> None:
    mask = torch.rand(n_out, n_in, generator=torch.Generator().manual_seed(seed)) < 0.4
    found = paths_of_three(mask)
    for o, i in (~mask).nonzero().tolist():
        assert float(found[o, i]) == pytest.approx(counted_paths(mask, o, i))


def test_a_neuron_that_is_cut_off_takes_its_other_links_along() -> None:
    method = CHT(CHTOptions(density=0.5), Clock(total_steps=100, steps_per_epoch=10), 0)
    method.bind(16, {"a": (3, 2), "b": (2, 3), "c": (2, 2)})
    kept = {
        "a": torch.tensor([[1, 1], [0, 0], [1, 0]]).bool(),  # hidden neuron 1 has no input
        "b": torch.tensor([[1, 0, 0], [0, 1, 0]]).bool(),  # and neuron 2 no output
        "c": torch.tensor([[1, 1], [0, 1]]).bool(),
    }
    method.remove_chains(kept)
    assert [int(m.sum()) for m in kept.values()] == [2, 1, 1], "and so on, to the second layer's neurons"
    with pytest.raises(HarnessError, match="layer conv is a convolution"):
        method.bind(100, {"conv": (4, 1, 5, 5)})


METHODS: dict[str, dict[str, Any]] = {
    "set_original": {},
    "set_itop": {"interval": 4},
    "rigl_itop": {"interval": 4},
    "deepr": {"noise": 0.1, "l1": 1e-3},
    "dsr": {"intervals": [2, 4], "interval_starts": [0.0, 0.5], "n_pruned": 200, "threshold": 0.01},
    "snfs": {"interval": 4},
    "mest": {"interval": 4, "gradient_weight": 1.0},
    "mest_ems": {"interval": 4},
    "granet": {"interval": 2, "initial_density": 0.5},
    "srigl": {"interval": 4},
    "cht": {"interval": 4},
    "chts": {"interval": 4},
}


@pytest.mark.parametrize(
    "optimizer", [{"lr": 0.1, "clip_norm": 1.0}, {"name": "adam", "lr": 1e-3}], ids=["sgd", "adam"]
)
@pytest.mark.parametrize("name", METHODS)
def test_a_whole_run(name: str, optimizer: dict[str, Any], tmp_path: Path) -> None:
    """Counts and masks are checked by the run itself at every update; it ends at the density that was asked for."""
    config = build_config({
        "model": {"name": "lenet_300_100"}, "data": {"name": "digits", "batch_size": 240},
        "method": {"name": name, "density": 0.1, **METHODS[name]}, "optimizer": optimizer,
        "schedule": {"epochs": 4}, "engine": {"device": "cpu"},
    }, "test")  # fmt: skip
    result = list(execute(config, 0, tmp_path))[-1]
    assert result["status"] == "done"
    budget = round(0.1 * result["n_weights"])
    assert result["n_active"] == budget or (name == "srigl" and 0.85 * budget < result["n_active"] < budget)
    assert 0 < result["live_fraction"] <= 1
    if "itop" in name:
        assert 0.1 < result["ever_active"] < 0.5


def test_snfs_keeps_momentum_everywhere_and_weights_only_where_it_should() -> None:
    job = build_job(build_config({
        "model": {"name": "lenet_300_100"}, "data": {"name": "digits", "batch_size": 240},
        "method": {"name": "snfs", "density": 0.1, "interval": 3}, "schedule": {"epochs": 2},
        "engine": {"device": "cpu"},
    }, "test"), 0, Path("unused"))  # fmt: skip
    for step, batch in enumerate(job.loader.train(1), 1):
        adapt(job, step - 1)
        before = {layer: mask.clone() for layer, mask in current_masks(job.engine).items()}
        take_step(job, step, batch)
        n_grown = 0
        for layer, (parameter, view) in viewed_layers(job.engine.model).items():
            assert int((job.engine.read_slot(parameter, "momentum") != 0).sum()) > 0.3 * parameter.numel()
            grown = view.kept(parameter) & ~before[layer]
            n_grown += int(grown.sum())
            assert bool((parameter[grown] == 0).all())
        assert (n_grown > 0) == (step == 3)
