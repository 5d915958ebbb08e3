"""Pruning before training: each score against its definition, and what methods become in their simplest cases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.force import sensitivity
from baselines.grasp import gradient_flow
from baselines.prospr import ProsPROptions, meta_gradient
from baselines.synflow import flow, make_positive
from harness.config import build_config, registry
from harness.sparse.masks import MaskedWeight, install_views, maskable_shapes, stored_weight, viewed_layers
from harness.sparse.method import Masks
from harness.sparse.noise import keyed_generator
from harness.sparse.schedules import Clock
from harness.sparse.scoring import Images, ScoredNetwork, rounds_of
from harness.train.job import build_job

SCORED = ("magnitude", "snip", "grasp", "synflow", "iter_snip", "force", "prospr")


def network(*sizes: int, bias: bool = True, double: bool = True) -> nn.Sequential:
    """A perceptron with a view on every layer, all weights kept."""
    layers: list[nn.Module] = [nn.Flatten()]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            layers += [nn.Linear(n_in, n_out, bias=bias), nn.Tanh() if i < len(sizes) - 2 else nn.Identity()]
    model = nn.Sequential(*layers)
    model = model.double() if double else model
    install_views(model, {n: MaskedWeight(torch.ones(s, dtype=torch.bool)) for n, s in maskable_shapes(model).items()})
    return model


class Draws:
    """Random images of a fixed kind."""

    def __init__(self, n_in: int, n_classes: int, n_images: int = 16, dtype: torch.dtype = torch.float64) -> None:
        self.shape, self.n_classes, self.n_images, self.dtype, self.drawn = (1, 1, n_in), n_classes, n_images, dtype, 0

    def batch(self) -> Images:
        self.drawn += 1
        generator = keyed_generator("draw", self.drawn)
        images = torch.randn((self.n_images, *self.shape), generator=generator, dtype=self.dtype)
        return images, torch.randint(0, self.n_classes, (self.n_images,), generator=generator)

    def balanced(self, per_class: int) -> Images:
        generator = keyed_generator("balanced", per_class)
        labels = torch.arange(self.n_classes).repeat(per_class)
        return torch.randn((len(labels), *self.shape), generator=generator, dtype=self.dtype), labels


def method_for(model: nn.Module, name: str, density: float, **options: Any) -> Any:
    held = registry.load("method", name, registry.METHODS)
    method = held(held.Options(density=density, **options), Clock(total_steps=10, steps_per_epoch=5), 0)
    shapes = maskable_shapes(model)
    method.bind(sum(s.numel() for s in shapes.values()), shapes)
    return method


def all_scores(scores: dict[str, Tensor]) -> Tensor:
    return torch.cat([score.reshape(-1) for score in scores.values()])


def central_difference(change: Callable[[float], Tensor], h: float = 1e-5) -> Tensor:
    return (change(h) - change(-h)) / (2 * h)


def test_snip_is_the_slope_of_the_loss_along_a_gate() -> None:
    model, images = network(6, 5, 3), Draws(6, 3).batch()
    held = ScoredNetwork(model)
    gradients = held.gradients(images)
    scores = sensitivity(held, gradients)
    assert float(all_scores(scores).sum()) == pytest.approx(1)
    total = sum(float((held.weights[n].detach() * g).abs().sum()) for n, g in gradients.items())
    for name, place in (("1", (2, 3)), ("3", (1, 4)), ("1", (0, 0))):
        weight = held.weights[name]

        def loss_with_gate(change: float, weight: nn.Parameter = weight, place: tuple[int, int] = place) -> Tensor:
            before = weight.data[place].clone()
            weight.data[place] = before * (1 + change)
            loss = held.loss(images).detach()
            weight.data[place] = before
            return loss

        assert float(scores[name][place]) == pytest.approx(
            abs(float(central_difference(loss_with_gate))) / total, rel=1e-6
        )


def test_the_gradient_alone_is_another_score() -> None:
    """Leaving out the weight was a bug of a public implementation: worse than random."""
    held = ScoredNetwork(network(6, 8, 3))
    gradients = held.gradients(Draws(6, 3).batch())
    method = method_for(held.module, "snip", 0.3)
    right = method.largest(sensitivity(held, gradients), 1.0)
    wrong = method.largest({n: g.abs() for n, g in gradients.items()}, 1.0)
    assert any(bool((right[n] != wrong[n]).any()) for n in right)


def grasp_halves(n_in: int, n_classes: int) -> list[Images]:
    images, labels = Draws(n_in, n_classes).balanced(4)
    return [(images[::2], labels[::2]), (images[1::2], labels[1::2])]


def test_grasps_product_is_the_hessians() -> None:
    """H g by a finite difference of the gradient along g, for the sum of the losses of both halves."""
    model, halves = network(5, 4, 3), grasp_halves(5, 3)
    held = ScoredNetwork(model)
    weights = list(held.weights.values())

    def gradient() -> list[Tensor]:
        loss = torch.stack([held.loss(half, 2.0) for half in halves]).sum()
        return [g.detach() for g in torch.autograd.grad(loss, weights)]

    g = gradient()

    def moved(h: float) -> Tensor:
        for weight, direction in zip(weights, g, strict=True):
            weight.data += h * direction
        found = torch.cat([x.reshape(-1) for x in gradient()])
        for weight, direction in zip(weights, g, strict=True):
            weight.data -= h * direction
        return found

    product = central_difference(moved)
    flat = torch.cat([w.detach().reshape(-1) for w in weights])
    expected = flat * product / (abs(float((flat * product).sum())) + 1e-10)
    assert torch.allclose(all_scores(gradient_flow(held, halves, 2.0)), expected, rtol=1e-5, atol=1e-9)


def test_grasp_keeps_what_the_gradients_square_would_miss() -> None:
    """Brute force: take a little of each weight away and see what becomes of |g|^2; the sign is easily turned round."""
    held = ScoredNetwork(network(4, 3, 2))
    halves = grasp_halves(4, 2)
    weights = list(held.weights.values())

    def square() -> Tensor:
        loss = torch.stack([held.loss(half, 1.0) for half in halves]).sum()
        return torch.stack([g.square().sum() for g in torch.autograd.grad(loss, weights)]).sum().detach()

    brute = []
    for weight in weights:
        for i in range(weight.numel()):

            def shrunk(h: float, weight: nn.Parameter = weight, i: int = i) -> Tensor:
                before = float(weight.data.view(-1)[i])
                weight.data.view(-1)[i] = before * (1 - h)
                found = square()
                weight.data.view(-1)[i] = before
                return found

            brute.append(-float(central_difference(shrunk)))  # how much |g|^2 falls when the weight goes
    scores = all_scores(gradient_flow(held, halves, 1.0))
    falls = torch.tensor(brute, dtype=torch.float64)
    assert torch.allclose(scores / scores.abs().max(), falls / falls.abs().max(), atol=1e-5)
    masks = method_for(held.module, "grasp", 0.5, temperature=1.0, reinit_classifier=False)
    kept = torch.cat([m.reshape(-1) for m in masks.largest(gradient_flow(held, halves, 1.0), 1.0).values()])
    assert set(kept.nonzero().view(-1).tolist()) == set(falls.argsort(descending=True)[:9].tolist())


def test_synflow_is_conserved_from_layer_to_layer() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 7, bias=False), nn.ReLU(),
                          nn.Linear(7, 3, bias=False))  # fmt: skip
    install_views(model, {n: MaskedWeight(torch.ones(s, dtype=torch.bool)) for n, s in maskable_shapes(model).items()})
    held = ScoredNetwork(model)
    make_positive(held)
    scores, total = flow(held, (1, 1, 6))
    assert [float(score.sum()) for score in scores.values()] == pytest.approx([total] * 3, rel=1e-12)


@pytest.mark.parametrize("n_kept", [6, 8, 20])
def test_synflow_empties_no_layer_while_a_path_can_be_kept(n_kept: int) -> None:
    """Six layers: six weights are one path. One shot by magnitude empties layers with as many."""
    sizes = (30, 20, 20, 20, 20, 20, 5)
    n_weights = sum(a * b for a, b in pairwise(sizes))

    def emptied(name: str) -> int:
        model = network(*sizes, bias=False, double=False)
        masks = method_for(model, name, n_kept / n_weights).choose_masks(model, Draws(30, 5))
        assert sum(int(m.sum()) for m in masks.values()) == n_kept
        return sum(not bool(m.any()) for m in masks.values())

    assert emptied("synflow") == 0
    assert emptied("magnitude") > 0 or n_kept > 6


def test_density_falls_exponentially_over_rounds() -> None:
    """Of 100 weights to 1 %, in two rounds: 10 %, that is 90 of the 99 that go; then all."""
    assert list(rounds_of(0.01, 2, "exponential")) == [pytest.approx(90 / 99), 1.0]
    assert list(rounds_of(0.01, 4, "linear")) == [0.25, 0.5, 0.75, 1.0]
    assert list(rounds_of(1.0, 2, "exponential"))[-1] == 1.0


def test_prospr_without_inner_steps_is_snip() -> None:
    model, images = network(6, 5, 3), Draws(6, 3).batch()
    held = ScoredNetwork(model)
    expected = sensitivity(held, held.gradients(images))
    found = meta_gradient(held, [images], ProsPROptions(inner_steps=0))
    total = float(all_scores(found).sum())
    assert torch.allclose(all_scores(found) / total, all_scores(expected), rtol=1e-9)


def test_prosprs_score_is_the_slope_of_the_loss_after_training_along_a_gate() -> None:
    model, draws = network(5, 4, 3), Draws(5, 3)
    images = draws.batch()
    held = ScoredNetwork(model)
    options = ProsPROptions(inner_steps=2, inner_lr=0.3, inner_momentum=0.5)
    scores = meta_gradient(held, [images] * 3, options)
    weight, place = held.weights["1"], (1, 2)

    def after(change: float) -> Tensor:
        now = {n: p.detach().clone() for n, p in model.named_parameters()}
        now["1.parametrizations.weight.original"][place] *= 1 + change
        velocity = {n: torch.zeros_like(p) for n, p in now.items()}
        for _ in range(2):
            live = {n: p.requires_grad_() for n, p in now.items()}
            loss = F.cross_entropy(torch.func.functional_call(model, live, (images[0],)), images[1])
            for (n, p), g in zip(live.items(), torch.autograd.grad(loss, list(live.values())), strict=True):
                velocity[n] = 0.5 * velocity[n] + g
                now[n] = (p - 0.3 * velocity[n]).detach()
        return F.cross_entropy(torch.func.functional_call(model, now, (images[0],)), images[1])

    assert weight.shape == (4, 5)
    assert float(scores["1"][place]) == pytest.approx(abs(float(central_difference(after))), rel=1e-6)
    first = meta_gradient(held, [images] * 3, options.model_copy(update={"first_order": True}))
    assert not torch.allclose(first["1"], scores["1"], rtol=1e-3)


@pytest.mark.parametrize("name", ["iter_snip", "force"])
def test_one_round_is_snip(name: str) -> None:
    model = network(6, 8, 3)
    expected = method_for(model, "snip", 0.3).choose_masks(network(6, 8, 3), Draws(6, 3))
    found = method_for(model, name, 0.3, rounds=1, norm_mode="eval").choose_masks(network(6, 8, 3), Draws(6, 3))
    assert all(torch.equal(found[layer], expected[layer]) for layer in expected)


def test_force_lets_weights_return_and_iterative_snip_does_not() -> None:
    def course(name: str) -> list[Masks]:
        model = network(12, 16, 4)
        method, seen = method_for(model, name, 0.1, rounds=6), list[Masks]()
        select = method.largest
        method.largest = lambda *args: seen.append(select(*args)) or seen[-1]
        method.choose_masks(model, Draws(12, 4))
        return seen

    def returned(masks: list[Masks]) -> bool:
        return any(bool((b[n] & ~a[n]).any()) for a, b in itertools.pairwise(masks) for n in a)

    assert returned(course("force"))
    assert not returned(course("iter_snip"))


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(SCORED), st.lists(st.integers(2, 9), min_size=3, max_size=4), st.floats(0.2, 1.0),
    st.sampled_from(["global", "uniform", "erk"]), st.booleans(),
)  # fmt: skip
def test_counts_are_exact(name: str, sizes: list[int], density: float, distribution: str, shuffled: bool) -> None:
    model = network(*sizes)
    method = method_for(model, name, density, distribution=distribution, shuffle_layers=shuffled)
    masks = method.choose_masks(model, Draws(sizes[0], sizes[-1]))
    assert sum(int(m.sum()) for m in masks.values()) == method.total_at(0)
    budgets = method.budgets_at(0)
    assert budgets is None or {n: int(m.sum()) for n, m in masks.items()} == budgets


def test_the_control_keeps_the_layers_and_not_the_places() -> None:
    chosen = method_for(network(12, 16, 4), "snip", 0.2).choose_masks(network(12, 16, 4), Draws(12, 4))
    shuffled = method_for(network(12, 16, 4), "snip", 0.2, shuffle_layers=True)
    control = shuffled.choose_masks(network(12, 16, 4), Draws(12, 4))
    assert [int(m.sum()) for m in control.values()] == [int(m.sum()) for m in chosen.values()]
    assert any(not torch.equal(control[n], chosen[n]) for n in chosen)


@pytest.mark.parametrize("name", SCORED)
def test_scoring_leaves_no_trace_but_the_masks(name: str) -> None:
    """On a network with batch normalisation: weights outside the masks are zero, all else is as without the method."""
    options = {"rounds": 3} if name in ("synflow", "iter_snip", "force") else {}
    plain = {
        "model": {"name": "resnet18", "width": 4}, "data": {"name": "digits", "batch_size": 64},
        "schedule": {"epochs": 1}, "engine": {"device": "cpu"},
    }  # fmt: skip
    dense = build_job(build_config(plain, "test"), 0, Path("unused")).engine.model.state_dict()
    job = build_job(
        build_config({**plain, "method": {"name": name, "density": 0.1, **options}}, "test"), 0, Path("unused")
    )
    found = job.engine.model.state_dict()
    masks = {n: view.kept(p) for n, (p, view) in viewed_layers(job.engine.model).items()}
    assert sum(int(m.sum()) for m in masks.values()) == job.method.total_at(0)
    for key, value in dense.items():
        layer = key.removesuffix(".weight")
        if layer in masks:
            stored, _ = stored_weight(job.engine.model.get_submodule(layer))  # type: ignore[arg-type]
            assert torch.equal(stored, value * masks[layer])
        else:
            assert torch.equal(found[key], value), key
    assert math.isfinite(float(job.method.n_weights))
