from __future__ import annotations

from typing import Any

import pytest

from orchestrator.cluster.fit import fit
from orchestrator.cluster.nodes import one_node
from orchestrator.cluster.resources import Machine, TrialMemory
from orchestrator.planning import costs, disk
from orchestrator.planning.checks import check_trials
from orchestrator.planning.costs import estimate_memory, estimate_time, trial_memory
from orchestrator.planning.disk import estimate_disk
from trainables.config import from_flat
from trainables.errors import WeightsUnavailable
from trainables.training.step_timing import StepTime

SMALL = {"data.phantom.num_train": 60, "data.phantom.num_val": 30, "data.phantom.num_test": 30}
LAPTOP = Machine(num_cpus=2, num_gpus=0, memory_gb=16)


def trial(**fields: Any):
    return from_flat(SMALL | {key.replace("__", "."): value for key, value in fields.items()})


def timed(step: Any, monkeypatch: pytest.MonkeyPatch, *configs: Any, num_trials: int = 4) -> Any:
    def answer(config: Any, concurrency: Any) -> StepTime:
        if isinstance(step, Exception):
            raise step
        return step

    monkeypatch.setattr(costs, "_time_step", answer)
    return estimate_time(
        list(configs),
        check_trials(list(configs)),
        num_trials=num_trials,
        num_baselines=1,
        concurrency=fit(1, cluster=one_node(LAPTOP)),
        stops_early=False,
    )


def test_time_is_pairs_times_trials_over_how_many_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, first = trial(adapt__method="none"), trial(global_batch_size=20, num_epochs=5)
    found = timed(StepTime(0.5, 20, 20, 0.0), monkeypatch, frozen, first)
    assert found.seconds == pytest.approx(0.5 * (60 // 20) * 5 * 4 / 2)
    assert str(found).startswith("about 15 s (one step takes 0.5 s, timed just now; 15 steps × 4 trials")
    other = trial(global_batch_size=40, num_epochs=5)  # as many pairs, in fewer steps
    found = timed(StepTime(0.5, 20, 8, 0.0), monkeypatch, frozen, first, other)
    assert found.seconds == pytest.approx(15)
    assert "timed just now on 8 of 20 pairs; 10 to 15 steps × 4 trials, 2 at once; embedding an" in str(found)


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (WeightsUnavailable("run hf download"), "not timed: the weights are not on this machine"),
        (RuntimeError("out of luck"), "not timed: the first step failed (RuntimeError: out of luck)"),
    ],
)
def test_a_step_that_fails_is_a_reason_and_no_error(
    problem: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert str(timed(problem, monkeypatch, trial())) == said


def test_nothing_that_trains_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        str(timed(AssertionError(), monkeypatch, trial(adapt__method="none"))) == "not timed: nothing trains"
    )


def test_the_largest_trial_decides_and_the_users_cut_counts() -> None:
    small, full = trial(global_batch_size=20), trial(adapt__method="full", global_batch_size=40)
    both = trial_memory([small, full], num_workers=1)
    assert both == trial_memory([full], num_workers=1)
    assert both.resident > trial_memory([small], num_workers=1).resident
    cut = trial(adapt__method="full", global_batch_size=40, execution__micro_batch_size=10)
    assert trial_memory([cut], num_workers=1).graphs == pytest.approx(both.graphs / 4)
    assert trial_memory([full], num_workers=2).graphs == pytest.approx(both.graphs / 2)


def test_memory_that_is_not_there_is_said() -> None:
    memory = TrialMemory(resident=3, graphs=50, least=0.5)
    found = estimate_memory(memory, fit(1, memory=memory, cluster=one_node(LAPTOP)), LAPTOP)
    assert found.trial_gb == pytest.approx(16 * 0.8 / 2)
    assert "more than there is" not in str(found)
    memory = TrialMemory(resident=20, graphs=50, least=0.5)
    found = estimate_memory(memory, fit(1, memory=memory, cluster=one_node(LAPTOP)), LAPTOP)
    assert (found.num_at_once, found.trial_gb) == (1, 20.5)
    assert "more than there is" in str(found)


def test_disk_counts_each_cache_once_and_checkpoints_of_what_runs_at_once() -> None:
    def total(*configs: Any, num_trials: int = 2, at_once: int = 1) -> int:
        datasets = check_trials(list(configs))
        return estimate_disk(list(configs), datasets, num_trials=num_trials, max_concurrent=at_once).total

    first = trial()
    assert total(first, trial(seed=1)) == total(first)
    assert total(first, trial(lora__num_blocks=1)) > total(first), "another cut, another cache"
    found = costs.footprint(first)
    assert total(first, at_once=3) - total(first) == 2 * disk.KEPT_CHECKPOINTS * found.checkpoint
    assert found.checkpoint == 12 * found.num_trainable
    assert total(trial(execution__cache_budget_gb=0.0)) < total(first)


def test_trials_on_gpus_are_held_against_the_memory_of_one() -> None:
    station = Machine(num_cpus=16, num_gpus=2, memory_gb=128, gpu_memory_gb=24)
    memory = TrialMemory(resident=3, graphs=50, least=0.5)
    found = estimate_memory(memory, fit(1, gpus_per_trial=0.5, cluster=one_node(station)), station)
    assert (found.num_at_once, found.trial_gb, found.of) == (2, 12, "of a GPU")
    assert estimate_memory(TrialMemory(3, 2), fit(1, cluster=one_node(station)), station).trial_gb == 5


def test_embedding_is_counted_after_every_evaluated_epoch_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen, first = trial(adapt__method="none"), trial(num_epochs=5, execution__evaluate_every_epochs=2)
    found = timed(StepTime(0.0, 20, 20, 0.01), monkeypatch, frozen, first)
    of_a_trial = 2 * (60 + 30) + 120  # epochs 2 and 4; the last one is judged on everything
    assert found.seconds == pytest.approx(0.01 * (4 * of_a_trial + 120) / 2)


def test_a_single_trial_is_not_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = timed(
        StepTime(0.5, 20, 20, 0.0),
        monkeypatch,
        trial(adapt__method="none"),
        trial(num_epochs=1),
        num_trials=1,
    )
    assert found.seconds == pytest.approx(1.5)
    assert "× 1 trial," in str(found)
