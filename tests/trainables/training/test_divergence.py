import math

import pytest
import torch

from trainables.config import OptimConfig
from trainables.errors import TrainingDiverged
from trainables.losses.global_batch import NonFiniteLoss
from trainables.training.divergence import DivergenceCheck
from trainables.training.optim import TrainState


@pytest.fixture
def check() -> DivergenceCheck:
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    state = TrainState({"weight": weight}, OptimConfig(learning_rate=0.5), total_steps=9)
    state.step, state.losses = 6, [2.5]
    return DivergenceCheck(state, global_batch_size=8)


def test_one_step_with_equal_embeddings_is_tolerated_and_two_in_a_row_are_not(check: DivergenceCheck) -> None:
    for spread in (0.4, 1e-9, 0.4, 1e-9, math.inf, 1e-9):
        check.check_collapse(spread)
    with pytest.raises(TrainingDiverged, match=r"diverged at step 6 of 9: .*optim.learning_rate \(0.5\)"):
        check.check_collapse(0.0)


def test_embeddings_that_are_close_together_from_the_start_may_train(check: DivergenceCheck) -> None:
    for spread in (3e-5, 2e-5, 2e-5, 1e-6):
        check.check_collapse(spread)
    check.check_collapse(1e-8)
    with pytest.raises(TrainingDiverged, match="collapsed"):
        check.check_collapse(1e-8)


def test_a_loss_that_is_not_finite_gets_its_step(check: DivergenceCheck) -> None:
    with pytest.raises(TrainingDiverged, match="diverged at step 7 of 9: loss is nan"), check.of_step():
        raise NonFiniteLoss("loss is nan")


def test_a_loss_far_above_its_start_is_refused_and_a_somewhat_higher_one_is_not(
    check: DivergenceCheck,
) -> None:
    check.check_losses([7.0, 7.0])
    with pytest.raises(TrainingDiverged, match=r"the mean loss of the epoch is 8, the first was 2\.5"):
        check.check_losses([7.0, 9.0])
