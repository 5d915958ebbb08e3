"""STR's dead zone, DNS's hysteresis, Top-KAST's two sets, DCTpS's fixed part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from baselines.dctps import CosinePlusSparse, DCTpS, DCTpSOptions, cosine_matrix
from baselines.dns import DNS, DNSOptions, Surgery
from baselines.str import STR, SoftThreshold, STROptions
from baselines.topkast import ForwardBackward, TopKAST, TopKASTOptions
from harness.config import build_config
from harness.config.schema import ScheduleConfig
from harness.errors import HarnessError
from harness.train.optimizer import build_rate
from harness.train.run import execute
from tests.baselines.layers import one_layer

SMALL: dict[str, Any] = {
    "model": {"name": "lenet_300_100"},
    "data": {"name": "digits", "batch_size": 240},
    "optimizer": {"lr": 0.1, "weight_decay": 5e-4},
    "schedule": {"epochs": 2},
    "engine": {"device": "cpu"},
}


# --- STR -------------------------------------------------------------------------------------------------


def test_str_is_a_soft_threshold_with_the_gradients_of_autograd() -> None:
    torch.manual_seed(0)
    theta = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    view = SoftThreshold(0.1).double()
    upstream = torch.randn(5, 6, dtype=torch.float64)
    effective = view(theta)
    (effective * upstream).sum().backward()
    g = torch.sigmoid(view.s.detach())
    alive = theta.detach().abs() > g
    assert torch.allclose(effective.detach(), torch.where(alive, theta.detach() - g * theta.detach().sign(), 0.0))
    assert theta.grad is not None and view.s.grad is not None
    assert torch.allclose(theta.grad, upstream * alive)
    assert float(view.s.grad) == pytest.approx(float(-g * (1 - g) * (upstream * theta.detach().sign())[alive].sum()))
    assert int(view.n_kept) == int(alive.sum())


def test_str_in_its_dead_zone_moves_by_weight_decay_alone() -> None:
    engine, _ = one_layer(STR, STROptions(), torch.randn(3, 4), weight_decay=0.01, momentum=0.0)
    view = engine.view("0")
    assert isinstance(view, SoftThreshold)
    assert float(torch.sigmoid(view.s.detach())) == 0
    assert engine.mask("0").all()
    engine.model(torch.ones(2, 4)).sum().backward()
    assert float(engine.read_gradient(view.s)) == 0
    engine.update(0.1, skip=False)
    assert float(view.s.detach()) == pytest.approx(-3200 * (1 - 0.1 * 0.01))


def test_str_leaves_the_dead_zone_between_minus_105_and_minus_88() -> None:
    for s, alive in ((-105.0, False), (-88.0, True)):
        view = SoftThreshold(s)
        view(torch.ones(1, 1)).sum().backward()
        assert view.s.grad is not None
        assert (float(view.s.grad) != 0) == alive


def test_str_leaves_the_dead_zone_in_epoch_17_of_the_resnet50_recipe() -> None:
    """lr .256, cosine after 5 epochs of warm-up, momentum .875, decay 2.251757813e-5, 5,005 steps an epoch."""
    schedule = ScheduleConfig(epochs=100, law="cosine", warmup=0.05)
    rate = build_rate(schedule, 0.256, 100 * 5_005)
    s, velocity, step = -3200.0, 0.0, 0
    while s < -100:
        velocity = 0.875 * velocity + 2.251757813e-5 * s
        s -= rate.at(step) * velocity
        step += 1
    assert step // 5_005 + 1 == pytest.approx(17, abs=1)


def test_str_without_weight_decay_is_refused() -> None:
    with pytest.raises(HarnessError, match="nothing but weight decay on s moves STR's thresholds"):
        build_config({**SMALL, "method": {"name": "str"}, "optimizer": {"weight_decay": 0.0}}, "test")


def test_s_decays_with_the_weights_where_scalars_do_not() -> None:
    engine, _ = one_layer(STR, STROptions(), torch.randn(3, 4), weight_decay=0.01, decay="weights")
    s = engine.view("0").get_parameter("s")
    (decay,) = [g["weight_decay"] for g in engine.optimizer.param_groups if any(p is s for p in g["params"])]
    assert decay == 0.01


# --- DNS -------------------------------------------------------------------------------------------------


def test_dns_prunes_below_splices_above_and_leaves_what_is_between() -> None:
    engine, method = one_layer(DNS, DNSOptions(gamma=0.0), torch.tensor([[0.89, 0.95, 1.11, 0.95, 1.11, 0.5]]))
    view = engine.view("0")
    assert isinstance(view, Surgery)
    view.base.fill_(1.0)
    view.mask.copy_(torch.tensor([[True, True, True, False, False, False]]))
    assert method.new_masks(600)["0"].tolist() == [[False, True, True, False, True, False]]


def test_dns_thresholds_come_from_the_first_surgery_and_stay() -> None:
    weights = torch.tensor([[1.0, -3.0, 0.0, 2.0]])  # of 1, 3, 2: mean 2, standard deviation sqrt(2/3)
    engine, method = one_layer(DNS, DNSOptions(c_rate=0.5, begin=0.5), weights)
    view = engine.view("0")
    assert isinstance(view, Surgery)
    assert not any(method.update_due(step) for step in range(501))
    assert method.update_due(501)
    method.new_masks(501)
    base = 2 + 0.5 * (2 / 3) ** 0.5
    assert float(view.base) == pytest.approx(base)
    engine.write(engine.stored("0"), torch.full((1, 4), 9.0))
    method.new_masks(502)
    assert float(view.base) == pytest.approx(base)


def test_dns_trains_pruned_weights_and_keeps_their_momentum() -> None:
    engine, _ = one_layer(DNS, DNSOptions(gamma=0.0), torch.tensor([[1.0, 0.1]]))
    parameter = engine.stored("0")
    engine.write_slot(parameter, "momentum", torch.tensor([[0.0, 0.5]]))
    engine.set_mask("0", torch.tensor([[True, False]]))
    assert engine.read_slot(parameter, "momentum").tolist() == [[0.0, 0.5]]
    assert parameter.tolist() == [[1.0, pytest.approx(0.1)]]
    output = engine.model(torch.tensor([[2.0, 3.0]]))
    assert float(output.detach()) == 2.0
    output.sum().backward()
    assert engine.read_gradient(parameter).tolist() == [[2.0, 3.0]]


def test_dns_knows_its_layers() -> None:
    with pytest.raises(HarnessError, match=r"method.c_rates: no layer \['fc9'\]; the layers: 0"):
        one_layer(DNS, DNSOptions(c_rates={"fc9": 1.0}), torch.ones(1, 2))


def test_dns_changes_masks_ever_less_often() -> None:
    _, method = one_layer(DNS, DNSOptions(gamma=0.01, begin=0.0, end=1.0), torch.ones(1, 2))
    due = [method.update_due(step) for step in range(1, 1_001)]
    expected = sum(1 / (1 + 0.01 * i) for i in range(1, 1_001))  # about 240
    assert sum(due) == pytest.approx(expected, abs=3 * expected**0.5)
    assert sum(due[:100]) > 2 * sum(due[-100:])


# --- Top-KAST --------------------------------------------------------------------------------------------


def test_topkast_uses_the_largest_and_trains_more() -> None:
    weights = torch.tensor([[0.1, -0.9, 0.5, -0.7, 0.3]])
    engine, method = one_layer(TopKAST, TopKASTOptions(density=0.4, backward_density=0.6, penalty=0.5), weights)
    view, parameter = engine.view("0"), engine.stored("0")
    assert isinstance(view, ForwardBackward)
    assert view.mask.tolist() == [[False, True, False, True, False]]
    assert view.backward_mask.tolist() == [[False, True, True, True, False]]
    assert parameter.tolist() == [pytest.approx([0.1, -0.9, 0.5, -0.7, 0.3])], "hidden weights keep their values"
    output = engine.model(torch.ones(1, 5))
    assert float(output.detach()) == pytest.approx(-1.6)
    output.sum().backward()
    assert engine.read_gradient(parameter).tolist() == [[0, 1, 1, 1, 0]]
    # .5 x (.81 + .49 + .25 / .4)
    assert float(method.extra_loss().detach()) == pytest.approx(0.5 * (0.81 + 0.49 + 0.25 / 0.4))
    sparsity = method.options.model_copy(update={"penalty_factor": "sparsity"})
    method.options = sparsity
    assert float(method.extra_loss().detach()) == pytest.approx(0.5 * (0.81 + 0.49 + 0.25 / 0.6))
    (pull,) = torch.autograd.grad(method.extra_loss(), parameter)  # 2 c times the weight, times the factor's inverse
    assert pull.tolist() == [pytest.approx([0, -0.9, 0.5 / 0.6, -0.7, 0])]


def test_topkast_refreshes_both_sets_and_masks_momentum_to_the_trained() -> None:
    weights = torch.tensor([[0.1, -0.9, 0.5, -0.7, 0.3]])
    options = TopKASTOptions(density=0.4, backward_density=0.6, explore=0.5)
    engine, method = one_layer(TopKAST, options, weights)
    view, parameter = engine.view("0"), engine.stored("0")
    assert isinstance(view, ForwardBackward)
    method.extra_loss()
    engine.write(parameter, torch.tensor([[0.1, -0.2, 0.5, -0.7, 0.3]]))
    engine.write_slot(parameter, "momentum", torch.ones(1, 5))
    engine.set_mask("0", method.new_masks(100)["0"])
    assert view.mask.tolist() == [[False, False, True, True, False]]
    assert view.backward_mask.tolist() == [[False, False, True, True, True]]
    (pull,) = torch.autograd.grad(method.extra_loss(), parameter)  # by the new sets; .3 is only explored
    assert pull.tolist() == [pytest.approx([0, 0, 2e-4 * 0.5, 2e-4 * -0.7, 2e-4 * 0.3 / 0.4])]
    assert engine.read_slot(parameter, "momentum").tolist() == [[0, 0, 1, 1, 1]]
    # exploration ends after step 500: from then on the forward weights alone are trained, and stay
    assert method.update_due(500) and not method.update_due(600)
    engine.set_mask("0", method.new_masks(500)["0"])
    assert torch.equal(view.mask, view.backward_mask)


def test_topkast_refuses_to_train_less_than_it_uses() -> None:
    with pytest.raises(HarnessError, match=r"backward_density 0.1 must be at least density 0.2"):
        build_config({**SMALL, "method": {"name": "topkast", "density": 0.2, "backward_density": 0.1}}, "test")


# --- DCTpS -----------------------------------------------------------------------------------------------


def test_the_cosine_matrix_is_orthonormal() -> None:
    matrix = cosine_matrix(7)
    assert torch.allclose(matrix @ matrix.T, torch.eye(7, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(matrix[0], torch.full((7,), 7**-0.5, dtype=torch.float64))


def test_dctps_starts_as_the_fixed_part_and_counts_the_sparse_one() -> None:
    engine, _ = one_layer(DCTpS, DCTpSOptions(density=0.25), torch.randn(3, 8))
    view, parameter = engine.view("0"), engine.stored("0")
    assert isinstance(view, CosinePlusSparse)
    assert not parameter.any()
    assert torch.allclose(view(parameter), cosine_matrix(8)[:3].float())
    assert int(engine.mask("0").sum()) == 6
    assert "0.parametrizations.weight.0.fixed" not in engine.state()
    engine.model(torch.ones(2, 8)).square().sum().backward()
    assert float(engine.read_gradient(view.scale)) != 0
    assert not engine.read_gradient(parameter)[~engine.mask("0")].any()


def test_dctps_density_is_that_of_the_trained_part(tmp_path: Path) -> None:
    result = list(execute(build_config({**SMALL, "method": {"name": "dctps", "density": 0.1}}, "test"), 1, tmp_path))[
        -1
    ]
    assert result["n_active"] == round(0.1 * result["n_weights"])
    assert result["n_nonzero"] <= result["n_active"]
    assert result["inference_macs"] == result["n_weights"], "inference multiplies with the fixed part too"
