"""Schedule, decay, clipping and the bound on the logit scale."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from trainables.config import OptimConfig, TrialConfig, from_flat
from trainables.training.optim import TrainState, lr_at

pytestmark = pytest.mark.kernels


def train_state(parameters: dict[str, nn.Parameter], **config: Any) -> TrainState:
    return TrainState(parameters, OptimConfig(**{"learning_rate": 0.1, **config}), total_steps=20)


def test_learning_rate_rises_linearly_then_falls_as_a_cosine_to_zero() -> None:
    schedule = [lr_at(step, learning_rate=2.0, total_steps=100, warmup_fraction=0.1) for step in range(101)]
    assert schedule[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert schedule[10] == max(schedule) == 2.0
    assert schedule[55] == pytest.approx(1.0)  # half-way down
    assert schedule[100] == pytest.approx(0.0, abs=1e-12)
    assert all(later < earlier for earlier, later in pairwise(schedule[10:]))


@pytest.mark.parametrize(("total_steps", "warmup_fraction"), [(7, 0.0), (1, 0.1)])
def test_learning_rate_without_warmup_starts_at_the_peak(total_steps: int, warmup_fraction: float) -> None:
    assert lr_at(0, learning_rate=3.0, total_steps=total_steps, warmup_fraction=warmup_fraction) == 3.0


def test_steps_use_the_schedule() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    state = train_state({"weight": weight}, warmup_fraction=0.5, weight_decay=0.0)
    sizes = []
    for _ in range(20):
        before = weight.detach().clone()
        weight.grad = torch.ones_like(weight)
        state.apply_gradients()
        sizes.append((weight - before).abs().max().item())
    expected = [lr_at(n, learning_rate=0.1, total_steps=20, warmup_fraction=0.5) for n in range(20)]
    assert sizes == pytest.approx(
        expected, abs=1e-6
    )  # Adam's step on a constant gradient is the learning rate
    assert state.step == 20


def test_a_learning_rate_that_is_not_set_is_that_of_the_encoder_family() -> None:
    parameters = {"weight": nn.Parameter(torch.zeros(2, 2))}
    config = TrialConfig()
    assert TrainState.create(parameters, config, total_steps=5).peak_learning_rate == 1e-3  # Lite0
    config = from_flat({"optim.learning_rate": 0.02})
    assert TrainState.create(parameters, config, total_steps=5).peak_learning_rate == 0.02


def test_only_matrices_decay() -> None:
    shapes = {"weight": (2, 2), "bias": (2,), "log_logit_scale": ()}
    parameters = {name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}
    state = train_state(parameters, weight_decay=0.5, warmup_fraction=0.0)
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    state.apply_gradients()
    assert parameters["weight"].detach().eq(1 - 0.1 * 0.5).all()
    assert parameters["bias"].detach().eq(1).all()
    assert parameters["log_logit_scale"].item() == 1


@pytest.mark.parametrize(("max_grad_norm", "clipped"), [(1.0, 1.0), (None, 5.0), (50.0, 5.0)])
def test_gradients_are_clipped_by_their_common_norm(max_grad_norm: float | None, clipped: float) -> None:
    parameters = {"a": nn.Parameter(torch.zeros(1, 1)), "b": nn.Parameter(torch.zeros(1))}
    state = train_state(parameters, max_grad_norm=max_grad_norm)
    parameters["a"].grad, parameters["b"].grad = torch.tensor([[3.0]]), torch.tensor([4.0])
    assert state.apply_gradients() == pytest.approx(5.0)  # the norm before clipping
    first_moments = torch.cat([state.optimizer.state[p]["exp_avg"].reshape(-1) for p in parameters.values()])
    assert first_moments.norm().item() == pytest.approx(0.1 * clipped, rel=1e-4)
    assert all(p.grad is None for p in parameters.values())


def test_logit_scale_never_exceeds_100() -> None:
    scale = nn.Parameter(torch.tensor(math.log(99.0)))
    state = TrainState({"s": scale}, OptimConfig(learning_rate=1.0), total_steps=10, log_logit_scale=scale)
    for _ in range(5):
        scale.grad = torch.tensor(-1.0)
        state.apply_gradients()
    assert scale.exp().item() == pytest.approx(100.0, rel=1e-5)
