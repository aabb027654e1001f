"""Sweeps without Ray: a controller with a real searcher and a real ledger, trials scored by a formula."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.driver.controller import Controller, RunSettings
from orchestrator.driver.observer import SweepObserver
from orchestrator.driver.resume import space_of
from orchestrator.planning.identity import Identity
from orchestrator.results.arms import best_arm
from orchestrator.results.leaderboard import leaderboard
from orchestrator.results.seed_repeats import confirmed_counts, num_confirming, num_still_to_confirm
from orchestrator.search.searcher import open_searcher
from orchestrator.search.space import SearchSpace
from orchestrator.search.space_file import read_space
from orchestrator.storage.events import SweepStarted
from orchestrator.storage.ledger import Ledger, LedgerReader, SweepState, TrialState
from orchestrator.worker.trial_spec import TrialRecord, TrialSpec
from trainables.config import TrialConfig, arm_key, from_flat, trial_key

OBJECTIVE, WEIGHTS = "val/probe_joint/macro_auroc", "perf/num_trainable_parameters"
TEMPLATE = TrialSpec(
    "", 0, {}, "module:function", OBJECTIVE, "", "/store", "/scratch", "cpu", 1, 1, 0
)  # fmt: skip
RATES = {"optim.learning_rate": {"float": [1e-4, 1e-1], "log": True}}
RANKS = {"lora.rank": {"choice": [1, 2, 4, 8, 16]}}
SMALL = {"data.phantom.num_train": 12, "data.phantom.num_val": 6, "data.phantom.num_test": 6}


def space_with(
    parameters: dict[str, Any] = RANKS, blocks: dict[str, Any] | None = None, **search
) -> SearchSpace:
    search = {"searcher": "grid", "seeds": 3, "num_confirmed": 2} | search
    content = {"name": "s", "fixed": SMALL, "parameters": parameters, "search": search}
    return read_space(content | (blocks or {}))


def measure(config: TrialConfig) -> dict[str, float]:
    """Higher ranks and rates are better; a seed moves all by as much."""
    rate = config.optim.learning_rate or 0.0
    score = 0.5 if config.adapt.method == "none" else 0.6 + config.lora.rank / 100 + rate + config.seed / 1000
    return {OBJECTIVE: score, WEIGHTS: 1000.0 * config.lora.rank}


def identify(config: TrialConfig) -> Identity:
    return Identity(
        trial_key(config, "data", "encoder"), arm_key(config, "data", "encoder"), "data", "encoder"
    )


class Driver:
    """What Tune does: asks for trials while there is a place, and says how they ended, the oldest first."""

    def __init__(self, folder: Path, space: SearchSpace, **resumed: bool):
        entries = LedgerReader(folder).poll()
        self.ledger, self.specs = Ledger(folder), list[TrialSpec]()
        settings = RunSettings(folder, identify)
        self.controller = Controller(settings, self.ledger, open_searcher(space), SweepObserver())
        self.controller.replay(entries, **resumed)
        started = {"name": "s", "objective": space.objective, "space": space.to_dict()}
        self.controller.record(SweepStarted(**started, num_to_confirm=sum(confirmed_counts(space))))
        self.running: list[TrialSpec] = []

    @property
    def state(self) -> SweepState:
        return self.controller.state

    def run(
        self,
        score: Callable[[TrialConfig], dict[str, float] | None] = measure,
        *,
        at_once: int = 1,
        max_ends: int = 1000,
    ) -> "Driver":
        """Runs trials until there are no more, or so many have ended; a score of None is a failure."""
        for _ in range(max_ends):
            while len(self.running) < at_once and (spec := self.controller.next_trial(TEMPLATE)) is not None:
                self.running.append(spec)
                self.specs.append(spec)
            if not self.running:
                break
            spec = self.running.pop(0)
            metrics = score(from_flat(spec.config))
            record = (
                TrialRecord(1.0, metrics) if metrics else TrialRecord(1.0, cause="non_finite", message="nan")
            )
            self.controller.ended(spec.trial_key, record)
        self.ledger.close()
        return self


def runs(state: SweepState) -> list[tuple[str, int]]:
    return [(trial.name, trial.config["seed"]) for trial in state.trials.values() if trial.confirms]


def drawn(state: SweepState) -> list[str]:
    return [key for key, trial in state.trials.items() if not trial.confirms]


@pytest.mark.parametrize("searcher", ["random", "grid", "tpe"])
def test_the_best_arms_run_on_more_seeds_once_all_draws_have_ended(tmp_path: Path, searcher: str):
    state = Driver(tmp_path, space_with(searcher=searcher)).run(at_once=2).state
    assert runs(state) == [
        ("rank=16 seed=1", 1),
        ("rank=16 seed=2", 2),
        ("rank=8 seed=1", 1),
        ("rank=8 seed=2", 2),
    ]
    keys = list(state.trials)
    assert keys[: len(drawn(state))] == drawn(state)
    arms = [trial.arm_key for trial in state.trials.values() if trial.config["lora.rank"] == 16]
    assert len(arms) == 3
    assert len(set(arms)) == 1


def test_while_a_drawn_trial_runs_nothing_is_confirmed_and_nothing_is_over(tmp_path: Path):
    driver = Driver(tmp_path, space_with({"lora.rank": {"choice": [4, 8]}}))
    specs = [driver.controller.next_trial(TEMPLATE) for _ in range(3)]
    for spec in specs[:2]:
        driver.controller.ended(spec.trial_key, TrialRecord(1.0, measure(from_flat(spec.config))))
    assert driver.controller.next_trial(TEMPLATE) is None
    last = specs[2]
    driver.controller.ended(last.trial_key, TrialRecord(1.0, measure(from_flat(last.config))))
    spec = driver.controller.next_trial(TEMPLATE)
    assert spec.config["seed"] == 1
    assert not spec.is_compared  # no scheduler may stop it
    assert last.is_compared
    driver.ledger.close()


def test_baselines_that_train_run_on_all_seeds_after_the_arms(tmp_path: Path):
    baselines = [{"name": "projection only", "adapt.method": "projection"}]
    space = space_with(blocks={"baselines": baselines}, num_confirmed=1, seeds=2)
    state = Driver(tmp_path, space).run().state
    assert runs(state) == [("rank=16 seed=1", 1), ("projection only seed=1", 1)]
    assert num_confirming(space) == len(runs(state))
    assert [trial.is_baseline for trial in state.trials.values() if trial.confirms] == [False, True]


def hard_space(**search) -> SearchSpace:
    """Everything at once: TPE with a constraint and two objectives, then more seeds."""
    blocks = {"also_minimise": WEIGHTS, "constraints": {WEIGHTS: {"at_most": 8000}}}
    return space_with(RATES | RANKS, blocks, searcher="tpe", num_trials=12, **search)


def values(state: SweepState) -> list[tuple[str, dict[str, float]]]:
    return [(key, trial.metrics) for key, trial in state.trials.items()]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> SweepState:
    return Driver(tmp_path_factory.mktemp("clean"), hard_space()).run().state


@pytest.mark.parametrize("num_ends", [1, 7, 12, 13, 14, 16])
def test_a_sweep_that_was_killed_runs_the_trials_of_one_that_was_not(
    tmp_path, clean: SweepState, num_ends: int
):
    killed = Driver(tmp_path, hard_space())
    killed.run(max_ends=num_ends)
    resumed = Driver(tmp_path, space_of(killed.state)).run()
    assert values(resumed.state) == values(clean)
    assert len(runs(clean)) == 4
    assert len(resumed.specs) == len(clean.trials) - num_ends


def test_infeasible_arms_and_those_that_a_scheduler_stopped_are_not_confirmed(tmp_path: Path):
    space = space_with(blocks={"constraints": {WEIGHTS: {"at_most": 8000}}}, num_confirmed=1)
    driver = Driver(tmp_path, space)
    for spec in iter(lambda: driver.controller.next_trial(TEMPLATE), None):
        if spec.config["seed"] > 0:
            break
        config = from_flat(spec.config)
        driver.controller.ended(
            spec.trial_key, TrialRecord(1.0, measure(config)), is_early=config.lora.rank == 8
        )
    assert spec.config["lora.rank"] == 4
    driver.ledger.close()


def test_a_confirming_trial_that_fails_leaves_its_arm_below_the_confirmed_ones(tmp_path: Path):
    def score(config: TrialConfig) -> dict[str, float] | None:
        return None if (config.lora.rank, config.seed) == (16, 1) else measure(config)

    state = Driver(tmp_path, space_with()).run(score).state
    assert len(runs(state)) == 4
    names = [row.name for row in leaderboard(state).rows]
    assert names[:3] == ["rank=8 (×3)", "frozen encoder", "rank=16 (2 of 3 seeds)"]
    assert names[3] == "rank=4 (one seed)"
    best = best_arm(state)
    assert best is not None
    assert best[0].name == "rank=8"


def test_an_extended_sweep_draws_on_and_confirms_what_is_best_then(tmp_path: Path):
    space = space_with(RATES, searcher="tpe", num_trials=4, num_confirmed=1)
    first = Driver(tmp_path / "short", space).run()
    before = runs(first.state)
    state = Driver(tmp_path / "short", space_of(first.state, extend=8)).run().state
    whole = Driver(tmp_path / "whole", space_of(first.state, extend=8)).run().state
    assert drawn(state) == drawn(whole)  # what was confirmed in between is none of the searcher's business
    assert runs(state) == before + runs(whole)
    assert len(before) == len(runs(whole)) == 2
    best = best_arm(state)
    assert best is not None
    assert len(best) == 3
    ranked = [row.name for row in leaderboard(state).rows]
    assert sum("(×3)" in name for name in ranked) == 2  # the arm that led before keeps its seeds


def test_an_arm_that_failed_and_then_proves_best_is_confirmed_too(tmp_path: Path):
    def score(config: TrialConfig) -> dict[str, float] | None:
        return None if config.lora.rank == 16 else measure(config)

    space = space_with(num_confirmed=1)
    first = Driver(tmp_path, space).run(score).state
    assert {name.partition(" ")[0] for name, _ in runs(first)} == {"rank=8"}
    again = Driver(tmp_path, space, retry_failed=True, is_exhausted=True)
    assert again.controller.has_more()
    state = again.run().state
    assert [spec.config["lora.rank"] for spec in again.specs] == [16, 16, 16]
    assert runs(state)[-2:] == [("rank=16 seed=1", 1), ("rank=16 seed=2", 2)]


def test_status_counts_what_is_still_to_confirm(tmp_path: Path):
    space = space_with()
    driver = Driver(tmp_path, space)
    assert num_still_to_confirm(driver.state) == num_confirming(space) == 4
    driver.run(max_ends=6 + 1)  # the baseline, five arms, and one of those that confirm
    assert num_still_to_confirm(driver.state) == 3
    assert num_still_to_confirm(Driver(tmp_path, space).run().state) == 0


def test_without_seeds_no_trial_is_confirmed(tmp_path: Path):
    state = Driver(tmp_path, space_with(seeds=1)).run().state
    assert runs(state) == []
    assert len(state.trials) == 6


def test_a_ledger_of_before_is_read_as_confirming_nothing():
    trial = TrialState("key", "arm", "name", {}, status="finished")
    assert not trial.confirms
    state = SweepState("s", started=SweepStarted(name="s", objective=OBJECTIVE), trials={"key": trial})
    assert num_still_to_confirm(state) == 0
