"""The vectors of east.md for its three parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from east.cyclic import CyclicDensity, CyclicOptions
from east.dyrelu import DyReLU, DyReLUOptions, Phase, put_dyrelu, remove_dyrelu
from east.method import EAST, EASTOptions
from east.sharing import SharedConv2d, share_weights
from harness.config.schema import ModelConfig
from harness.errors import HarnessError
from harness.models.resnet import resnet18, resnet34, resnet50
from harness.models.shape import ChannelReLU, InputShape
from harness.sparse.budgets import total_budget
from harness.sparse.masks import maskable_shapes
from harness.sparse.schedules import Clock

CIFAR = InputShape(3, 32, 10)
PAPER = Clock(total_steps=88_000, steps_per_epoch=352)


# --- section 2: DyReLU -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch", "beta"),
    [(1, 1), (62, 1), (63, 0.9919), (64, 0.9756), (93, 0.5041), (123, 0.0163), (124, 0), (250, 0)],
)
def test_beta(epoch: int, beta: float) -> None:
    phase = Phase.of(DyReLUOptions(), PAPER)
    first, last = (epoch - 1) * PAPER.steps_per_epoch, epoch * PAPER.steps_per_epoch - 1
    assert phase.beta(first) == phase.beta(last) == pytest.approx(beta, abs=5e-5)


def test_beta_by_the_step() -> None:
    """One epoch of 100 steps: beta falls from epoch 1.2, after 20 steps, to 1.6, after 60."""
    options = DyReLUOptions(changes="step", start_epoch=1.2, end_epoch=1.6)
    phase = Phase.of(options, Clock(total_steps=100, steps_per_epoch=100))
    assert [phase.beta(step) for step in (0, 19, 60, 99)] == [1, 1, 0, 0]
    assert [phase.beta(step) for step in (30, 40, 50)] == pytest.approx([0.75, 0.5, 0.25])


def test_beta_zero_is_relu_bit_for_bit() -> None:
    torch.manual_seed(0)
    activation, x = DyReLU(8), torch.randn(4, 8, 5, 5)
    assert not torch.equal(activation(x), x.relu())
    activation.beta.zero_()
    assert torch.equal(activation(x), x.relu())


def test_the_blend_is_of_coefficients() -> None:
    torch.manual_seed(0)
    activation, x = DyReLU(8), torch.randn(4, 8, 5, 5)
    dynamic = activation.coefficients(x)
    activation.beta.fill_(0.5)
    plain = torch.tensor([1.0, 0, 0, 0]).view(1, 4, 1)
    a1, a2, b1, b2 = (0.5 * dynamic + 0.5 * plain).unbind(1)
    a1, a2, b1, b2 = (c[..., None, None] for c in (a1, a2, b1, b2))
    expected = torch.maximum(a1 * x + b1, a2 * x + b2)
    assert torch.allclose(activation(x), expected, atol=1e-7)


@pytest.mark.parametrize("shape", [(4, 8, 5, 3), (6, 8)])
def test_gradients_are_those_of_the_formula(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    activation, x = DyReLU(8).double(), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    activation.beta.fill_(0.7)

    def formula(x: torch.Tensor) -> torch.Tensor:
        over = (*x.shape[:2], *[1] * (x.dim() - 2))
        a1, a2, b1, b2 = (c.reshape(over) for c in activation.coefficients(x).unbind(1))
        return torch.maximum(a1 * x + b1, a2 * x + b2)

    weights = torch.randn(shape, dtype=torch.float64)
    wanted = [x, *activation.parameters()]
    expected = torch.autograd.grad((formula(x) * weights).sum(), wanted)
    found = torch.autograd.grad((activation(x) * weights).sum(), wanted)
    for name, one, other in zip(("x", "w1", "b1", "w2", "b2"), found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-14), name
    assert torch.equal(activation(x), formula(x))


def test_activations_stay_16_bits_wide_and_the_pieces_are_not_kept() -> None:
    activation, x = DyReLU(8), torch.randn(4, 8, 50, 50, dtype=torch.bfloat16, requires_grad=True)
    kept: list[torch.Tensor] = []
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
    ):
        out = activation(x)
    assert out.dtype == torch.bfloat16
    large = {t.data_ptr(): t.element_size() for t in kept if t.numel() == x.numel()}
    assert sorted(large.values()) == [1, 2]  # which piece was larger, and x itself
    out.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def test_frozen_coefficients_get_no_gradient() -> None:
    activation, x = DyReLU(8), torch.randn(4, 8, 5, 5, requires_grad=True)
    activation.requires_grad_(False)
    out = activation(x.detach() * 1)  # nothing to train behind it either
    assert not out.requires_grad
    activation(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in activation.parameters())


def test_coefficients_stay_in_their_ranges() -> None:
    torch.manual_seed(0)
    a1, a2, b1, b2 = DyReLU(8).coefficients(torch.randn(64, 8, 2, 2) * 10).unbind(1)
    assert 0 < a1.min() < 0.5
    assert 1.5 < a1.max() < 2
    assert a2.abs().max() < 1
    assert max(b1.abs().max(), b2.abs().max()) < 0.5


@pytest.mark.parametrize(
    ("build", "n_modules", "n_parameters"), [(resnet34, 33, 3_181_168), (resnet50, 49, 28_394_800)]
)
def test_dyrelu_counts(build: object, n_modules: int, n_parameters: int) -> None:
    with torch.device("meta"):
        model = build(ModelConfig(), CIFAR)  # type: ignore[operator]
        before = sum(p.numel() for p in model.parameters())
        n_weights = sum(s.numel() for s in maskable_shapes(model).values())
        assert put_dyrelu(model, 4) == n_modules
    assert sum(p.numel() for p in model.parameters()) - before == n_parameters
    assert sum(s.numel() for s in maskable_shapes(model).values()) == n_weights
    assert remove_dyrelu(model) == n_modules
    assert sum(p.numel() for p in model.parameters()) == before


def test_a_run_that_would_end_with_dyrelu_is_refused() -> None:
    with pytest.raises(HarnessError, match="would end with DyReLU"):
        Phase.of(DyReLUOptions(start_epoch=10, end_epoch=30), Clock(total_steps=200, steps_per_epoch=10))


# --- section 3: sharing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "classes", "stem", "n_total", "n_unique", "tensors", "n_bn", "n_sigma"),
    [
        (resnet34, 10, "cifar", 21_265_088, 11_164_352, (37, 21), 17_024, 16),
        (resnet34, 100, "cifar", 21_311_168, 11_210_432, (37, 21), 17_024, 16),
        (resnet50, 10, "cifar", 23_467_712, 13_928_128, (54, 30), 53_120, 24),
        (resnet50, 100, "cifar", 23_652_032, 14_112_448, (54, 30), 53_120, 24),
        (resnet50, 1000, "imagenet", 25_502_912, 15_963_328, (54, 30), 53_120, 24),
    ],
)
def test_table_3_3(
    build: object, classes: int, stem: str, n_total: int, n_unique: int, tensors: tuple[int, int], n_bn: int,
    n_sigma: int,
) -> None:  # fmt: skip
    with torch.device("meta"):
        model = build(ModelConfig(stem=stem), InputShape(3, 32, classes))  # type: ignore[operator, arg-type]
    before = maskable_shapes(model)
    share_weights(model, 2, seed=0)
    after = maskable_shapes(model)
    assert sum(s.numel() for s in before.values()) == n_total
    assert sum(s.numel() for s in after.values()) == n_unique
    assert (len(before), len(after)) == tensors
    assert sum(p.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()) == n_bn
    sigmas = [m.sigma for m in model.modules() if isinstance(m, SharedConv2d)]
    assert len(sigmas) == n_sigma
    assert all(0 <= s.item() < 1 for s in sigmas)
    assert len(set(model.state_dict())) == len({id(t) for t in model.state_dict(keep_vars=True).values()})


def test_sharing_beyond_the_blocks_is_the_ordinary_network_or_refused() -> None:
    with torch.device("meta"):
        with pytest.raises(HarnessError, match=r"nothing to share .* \[2, 2, 2, 2\]"):
            share_weights(resnet18(ModelConfig(), CIFAR), 2, seed=0)
        with pytest.raises(HarnessError, match="nothing to share"):
            share_weights(resnet34(ModelConfig(), CIFAR), 6, seed=0)


def test_the_donor_gets_the_sum_of_the_gradients_of_its_uses() -> None:
    torch.manual_seed(0)
    donor = nn.Conv2d(2, 2, 3, padding=1, bias=False)
    one, two = SharedConv2d(donor, torch.tensor([0.3])), SharedConv2d(donor, torch.tensor([0.8]))
    x = torch.randn(1, 2, 4, 4)
    (donor(x).sum() + one(x).square().sum() + two(x).sin().sum()).backward()

    def gradient(scale: float, use: object) -> torch.Tensor:
        weight = donor.weight.detach().clone().requires_grad_()
        use(F.conv2d(x, scale * weight, padding=1)).sum().backward()  # type: ignore[operator]
        return weight.grad

    expected = gradient(1, lambda y: y) + gradient(0.3, torch.square) + gradient(0.8, torch.sin)
    assert torch.allclose(donor.weight.grad, expected, atol=1e-5)


# --- section 4: cyclic density ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "n_active"),
    [(1, 2_126), (1_000, 2_260), (4_401, 4_253), (8_801, 6_379), (13_201, 4_253), (17_000, 2_175), (17_601, 2_126),
     (20_000, 2_859), (26_401, 6_379), (35_000, 2_131)],
)  # fmt: skip
def test_density_vector(step: int, n_active: int) -> None:
    """The vector counts its steps from 1: after k - 1 steps."""
    density = CyclicDensity.of(CyclicOptions(), 1e-4, PAPER)
    assert density.at(step - 1) * 21_265_088 == pytest.approx(n_active, abs=1.01)


def test_the_phase_ends_on_the_target() -> None:
    density = CyclicDensity.of(CyclicOptions(), 1e-4, PAPER)
    assert density.end == 35_200
    assert density.at(35_200) == density.at(88_000) == 1e-4


def test_triangular_and_growing_cycles() -> None:
    clock = Clock(total_steps=100, steps_per_epoch=1)
    options = CyclicOptions(shape="triangular", n_cycles=2, cycle_epochs=10, growth=2.0, multiplier=3)
    density = CyclicDensity.of(options, 0.1, clock)
    assert density.lengths == (10, 20)
    assert [density.at(k) for k in (0, 5, 10, 20, 25, 30)] == pytest.approx([0.1, 0.3, 0.1, 0.3, 0.2, 0.1])


def test_cycles_longer_than_the_run_are_refused() -> None:
    with pytest.raises(HarnessError, match="2 cycles take 1000 steps, more than the run's 100"):
        CyclicDensity.of(CyclicOptions(), 0.1, Clock(total_steps=100, steps_per_epoch=10))


# --- the composition -------------------------------------------------------------------------------


def bound(**options: object) -> EAST:
    method = EAST(EASTOptions(density=1e-3, **options), PAPER, seed=0)  # type: ignore[arg-type]
    with torch.device("meta"):
        model = resnet34(ModelConfig(), CIFAR)
    n_weights = sum(s.numel() for s in maskable_shapes(model).values())
    method.bind(n_weights, maskable_shapes(method.transform(model)))
    return method


def test_22_updates_without_cycles() -> None:
    method = bound(cyclic=None)
    assert sum(method.update_due(k) for k in range(1, 88_001)) == 22


def test_budgets_are_exact_at_every_update_of_the_phase() -> None:
    method = bound()
    assert method.cycle is not None
    for step in range(1_000, 35_201, 1_000):
        expected = total_budget(method.cycle.at(step), 21_265_088)
        assert sum(method.budgets_at(step).values()) == expected
    assert sum(method.budgets_at(35_200).values()) == 21_265
    assert method.update_due(35_200), "the projection onto the target"
    assert method.budgets_at(88_000) == method.target_budget


def test_the_control_arm_holds_the_average_density_of_the_cycles() -> None:
    """Spec section 9: with m = 3 the mean over the phase is twice the target; the phase is 35,200 of 88,000 steps."""
    held = bound(cyclic=CyclicOptions(hold_average=True))
    assert sum(held.budgets_at(0).values()) == round(1e-3 * (1 + 35_200 / 88_000) * 21_265_088)
    assert held.budgets_at(0) == held.budgets_at(50_000) == held.budgets_at(88_000)
    cycling = bound().cycle
    assert cycling is not None
    integral = sum(cycling.at(k) for k in range(88_000)) / 88_000
    assert cycling.average(88_000) == pytest.approx(integral, rel=1e-6)


def test_parts_can_be_turned_off() -> None:
    method = bound(dyrelu=None, sharing=None, cyclic=None)
    assert len(method.shapes) == 37
    assert method.beta(0) == 0
    assert not method.in_cycles(1)


def test_activations_of_a_plain_model_are_found() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), ChannelReLU(8), nn.Conv2d(8, 8, 3), nn.ReLU())
    assert put_dyrelu(model, 4) == 1, "an activation that does not know its channels is left alone"
