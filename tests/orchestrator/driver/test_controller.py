from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.driver.controller import Controller, RunSettings
from orchestrator.driver.observer import SweepObserver
from orchestrator.driver.resume import check_drift, keep_keys
from orchestrator.planning.identity import Identity
from orchestrator.search.space import Draw, SearchSettings
from orchestrator.storage.events import SweepFinished, TrialWarned
from orchestrator.storage.ledger import Inputs, Ledger, LedgerReader, TrialState, read_ledger
from orchestrator.worker.trial_spec import TrialRecord, TrialSpec
from trainables.config import AdaptConfig, EncoderConfig, LoraConfig, TrialConfig, science
from trainables.errors import ConfigError, DataError, WeightsUnavailable

OBJECTIVE = "val/probe_joint/macro_auroc"
TEMPLATE = TrialSpec(
    trial_key="",
    attempt=0,
    config={},
    trainable="module:function",
    objective=OBJECTIVE,
    workdir="",
    store="/store",
    scratch="/scratch",
    device="cpu",
    num_workers=2,
    cpus_per_trial=2,
    gpus_per_trial=0,
)


class Listed:
    def __init__(self, draws: list[Draw]):
        self.draws, self.told = draws, []

    def ask(self) -> Draw | None:
        return self.draws.pop(0) if self.draws else None

    def tell(self, draw: Draw, metrics: dict[str, float] | None) -> None:
        self.told.append((draw.name, metrics and metrics.get(OBJECTIVE)))


class Watcher(SweepObserver):
    """Fails if it is told of what is not on disk yet."""

    def __init__(self, folder: Path):
        self.folder, self.seen = folder, []

    def on_trial_placed(self, trial: TrialState) -> None:
        assert read_ledger(self.folder).trials[trial.trial_key].status == "placed"
        self.seen.append(trial.name)

    def on_trial_finished(self, trial: TrialState) -> None:
        assert read_ledger(self.folder).trials[trial.trial_key].status == "finished"
        self.seen.append(f"{trial.name} finished")

    def on_trial_failed(self, trial: TrialState) -> None:
        assert read_ledger(self.folder).trials[trial.trial_key].cause == trial.cause
        self.seen.append(f"{trial.name} failed")


class Opened(Controller):
    """A controller whose parts a test can see."""

    def __init__(self, settings: RunSettings, ledger: Ledger, searcher: Listed, observer: Watcher):
        super().__init__(settings, ledger, searcher, observer)
        self.ledger, self.searcher, self.observer = ledger, searcher, observer


def draw_of(name: str, rank: int) -> Draw:
    return Draw(name, TrialConfig(lora=LoraConfig(rank=rank)))


@pytest.fixture
def conduct(tmp_path: Path):
    ledgers = []

    def open_controller(*draws: Draw, **settings) -> Opened:
        ledgers.append(Ledger(tmp_path))
        defaults = {"identify": identify, "search": SearchSettings(max_retries=0)}
        return Opened(
            RunSettings(tmp_path, **defaults | settings), ledgers[-1], Listed(list(draws)), Watcher(tmp_path)
        )

    yield open_controller
    for ledger in ledgers:
        ledger.close()


def identify(config: TrialConfig) -> Identity:
    return Identity(f"key-{config.lora.rank}", "arm", "data", "weights")


def test_a_trial_spec_says_how_to_run_the_trial(conduct, tmp_path: Path):
    spec = conduct(draw_of("a", 3)).next_trial(TEMPLATE)
    assert spec.trial_key == "key-3"
    assert spec.config["lora.rank"] == 3
    assert (spec.config["execution.num_workers"], spec.config["execution.device"]) == (2, "cpu")
    assert Path(spec.workdir) == tmp_path / "trials" / "key-3"
    assert TrialSpec.from_json(spec.to_json()) == spec


def test_events_are_on_disk_before_they_are_shown_and_scores_are_told(conduct):
    controller = conduct(draw_of("a", 1), draw_of("b", 2))
    controller.next_trial(TEMPLATE), controller.next_trial(TEMPLATE)
    controller.reported("key-1", 1, {OBJECTIVE: 0.6})
    controller.ended("key-1", TrialRecord(2.0, {OBJECTIVE: 0.7}))
    controller.ended("key-2", TrialRecord(1.0, cause="crash", message="why"))
    assert controller.observer.seen == ["a", "b", "a finished", "b failed"]
    assert controller.searcher.told == [("a", 0.7), ("b", None)]
    assert controller.exit_code() == 3


def test_a_trial_drawn_twice_runs_once_and_is_answered_when_it_ends(conduct):
    controller = conduct(draw_of("a", 1), draw_of("again", 1), draw_of("b", 2), draw_of("late", 1))
    assert controller.next_trial(TEMPLATE).trial_key == "key-1"
    assert controller.next_trial(TEMPLATE).trial_key == "key-2"  # "again" waits for key-1
    controller.ended("key-1", TrialRecord(1.0, {OBJECTIVE: 0.7}))
    assert controller.searcher.told == [("a", 0.7), ("again", 0.7)]
    assert controller.next_trial(TEMPLATE) is None
    assert controller.searcher.told[-1] == ("late", 0.7)
    assert len(controller.state.trials) == 2


def test_a_stopped_trial_ranks_by_its_last_value(conduct):
    controller = conduct(draw_of("a", 1))
    controller.next_trial(TEMPLATE)
    controller.reported("key-1", 1, {OBJECTIVE: 0.6, "train/loss": 2.0})
    controller.reported("key-1", 2, {"train/loss": 1.0})
    controller.stopped_early("key-1", seconds=3.0)
    trial = controller.state.trials["key-1"]
    assert (trial.status, trial.stopped_early) == ("finished", True)
    assert trial.metrics == {OBJECTIVE: 0.6, "train/loss": 1.0}
    assert controller.searcher.told == [("a", 0.6)]


@pytest.mark.parametrize(
    ("causes", "expected"),
    [([None, None], 0), ([None, "unavailable"], 0), (["unavailable"], 3), ([None, "crash"], 3), ([], 3)],
)
def test_the_exit_code_tells_failures_from_absent_weights(conduct, causes: list[str | None], expected: int):
    controller = conduct(*(draw_of(str(i), i + 1) for i in range(len(causes))))
    for number, cause in enumerate(causes):
        controller.next_trial(TEMPLATE)
        record = TrialRecord(1.0, {OBJECTIVE: 0.5})
        controller.ended(
            f"key-{number + 1}", replace(record, cause=cause, message="why") if cause else record
        )
    assert controller.exit_code() == expected


def test_an_epoch_that_is_said_again_stands_in_the_ledger_once(conduct, tmp_path: Path):
    controller = conduct(draw_of("a", 1))
    controller.next_trial(TEMPLATE)
    controller.reported("key-1", 1, {"train/loss": 1.0})
    controller.reported("key-1", 1, {"train/loss": 1.0, "perf/adapter_reused": 1.0})
    controller.reported("key-1", 2, {"train/loss": 0.5})
    history = read_ledger(tmp_path).trials["key-1"].history
    assert history == [(1, 1, {"train/loss": 1.0}), (1, 2, {"train/loss": 0.5})]


def test_a_crash_is_retried_before_anything_new_and_told_once_at_the_end(conduct, tmp_path: Path):
    controller = conduct(draw_of("a", 1), draw_of("b", 2), search=SearchSettings(max_retries=1))
    controller.next_trial(TEMPLATE)
    controller.ended("key-1", TrialRecord(1.0, cause="crash", message="died"))
    assert read_ledger(tmp_path).trials["key-1"].status == "placed"  # a driver killed now leaves it to do
    assert controller.searcher.told == []
    spec = controller.next_trial(TEMPLATE)
    assert (spec.trial_key, spec.attempt) == ("key-1", 2)
    controller.ended("key-1", TrialRecord(1.0, cause="crash", message="died again"))
    assert controller.searcher.told == [("a", None)]
    assert controller.next_trial(TEMPLATE).trial_key == "key-2"
    trial = read_ledger(tmp_path).trials["key-1"]
    assert (trial.status, trial.message) == ("failed", "died again")
    assert trial.failures == [(1, "crash", "died"), (2, "crash", "died again")]


@pytest.mark.parametrize("cause", ["user_error", "diverged", "non_finite", "out_of_memory", "unavailable"])
def test_what_another_attempt_would_not_mend_is_not_retried(conduct, cause: str):
    controller = conduct(draw_of("a", 1), search=SearchSettings(max_retries=5))
    controller.next_trial(TEMPLATE)
    controller.ended("key-1", TrialRecord(1.0, cause=cause, message="why"))
    assert controller.next_trial(TEMPLATE) is None


def resumed(conduct, tmp_path: Path, *draws: Draw, **options) -> Controller:
    controller = conduct(*draws)
    controller.replay(LedgerReader(tmp_path).poll(), **options)
    return controller


def test_a_resumed_sweep_asks_and_tells_as_the_first_one_did(conduct, tmp_path: Path):
    draws = [draw_of("a", 1), draw_of("b", 2), draw_of("again", 1), draw_of("c", 3), draw_of("d", 4)]
    first = conduct(*draws)
    first.next_trial(TEMPLATE), first.next_trial(TEMPLATE)
    first.ended("key-1", TrialRecord(1.0, {OBJECTIVE: 0.7}))
    first.next_trial(TEMPLATE)  # "again" is answered, "c" placed
    first.ended("key-2", TrialRecord(1.0, cause="non_finite", message="why"))
    first.ledger.close()

    second = resumed(conduct, tmp_path, *draws)
    assert second.searcher.told == first.searcher.told == [("a", 0.7), ("again", 0.7), ("b", None)]
    assert second.state == first.state
    spec = second.next_trial(TEMPLATE)
    assert (spec.trial_key, spec.attempt) == ("key-3", 2)
    second.ended("key-3", TrialRecord(1.0, {OBJECTIVE: 0.6}))
    assert second.searcher.told[-1] == ("c", 0.6)
    assert second.next_trial(TEMPLATE).trial_key == "key-4"
    assert second.next_trial(TEMPLATE) is None


def test_failed_trials_are_tried_again_only_if_asked_for(conduct, tmp_path: Path):
    first = conduct(draw_of("a", 1), draw_of("b", 2))
    first.next_trial(TEMPLATE), first.next_trial(TEMPLATE)
    first.ended("key-1", TrialRecord(1.0, cause="user_error", message="why"))
    first.ended("key-2", TrialRecord(1.0, {OBJECTIVE: 0.6}))
    first.ledger.close()
    second = resumed(conduct, tmp_path, draw_of("a", 1), draw_of("b", 2))
    assert not second.has_more()
    second.ledger.close()
    third = resumed(conduct, tmp_path, draw_of("a", 1), draw_of("b", 2), retry_failed=True)
    assert third.has_more()
    assert (third.next_trial(TEMPLATE).attempt, third.next_trial(TEMPLATE)) == (2, None)


def test_a_trial_whose_weights_came_since_keeps_its_key_and_runs_once(conduct, tmp_path: Path):
    first = conduct(draw_of("a", 1), draw_of("b", 2), identify=weights(None))
    first.failed(first.next_trial(TEMPLATE).trial_key, "unavailable", "get them")
    first.ledger.close()
    for is_tried_again in (True, False):  # the second time the trial has ended
        found = keep_keys(read_ledger(tmp_path), weights("new"))
        second = conduct(draw_of("a", 1), draw_of("b", 2), identify=found)
        second.replay(LedgerReader(tmp_path).poll(), retry_failed=is_tried_again)
        if is_tried_again:
            spec = second.next_trial(TEMPLATE)
            assert (spec.trial_key, spec.model_fingerprint) == ("key-1 on None", "new")
            second.ended("key-1 on None", TrialRecord(1.0, {OBJECTIVE: 0.7}))
        spec = second.next_trial(TEMPLATE)
        arm_key = second.state.trials[spec.trial_key].arm_key
        assert (spec.trial_key, arm_key) == ("key-2 on new", "arm on None")
        assert second.next_trial(TEMPLATE) is None
        second.ledger.close()


def weights(which: str | None):
    """Names trials by the weights that are here, as `identify` does."""
    return lambda config: Identity(f"key-{config.lora.rank} on {which}", f"arm on {which}", "data", which)


def test_weights_may_come_and_are_held_fast_once_a_trial_was_placed_with_them(conduct, tmp_path: Path):
    def look(which: str | None, *, places: int) -> None:
        """Resumes the sweep with these weights here, and tries again what was unavailable."""
        check_drift(read_ledger(tmp_path), weights(which))
        found = keep_keys(read_ledger(tmp_path), weights(which))
        controller = conduct(draw_of("a", 1), draw_of("b", 2), identify=found)
        controller.replay(LedgerReader(tmp_path).poll(), retry_failed=True)
        for _ in range(places):
            controller.failed(controller.next_trial(TEMPLATE).trial_key, "unavailable", "get them")
        controller.ledger.close()

    Ledger(tmp_path).close()
    look(None, places=1)
    look("one", places=0)  # they came, and nothing ran with them
    look("another", places=1)
    for gone in ("one", None):
        with pytest.raises(
            DataError, match=rf"the weights of lite0-minilm \(another then, {gone or 'none'} now"
        ):
            look(gone, places=0)
    look("another", places=1)


def test_another_attempt_stands_on_what_its_driver_finds_under_the_keys_that_it_has(conduct):
    here, found = [], []
    controller = conduct(
        draw_of("a", 1),
        search=SearchSettings(max_retries=2),
        identify=lambda config: weights(here[-1])(config),
    )
    for which in (None, "one"):  # the second: as in another driver
        here.append(which)
        spec = controller.next_trial(TEMPLATE)
        found.append((spec.trial_key, spec.attempt, spec.model_fingerprint))
        controller.failed(spec.trial_key, "crash", "why")
    assert found == [("key-1 on None", 1, None), ("key-1 on None", 2, "one")]
    (trial,) = controller.state.trials.values()
    assert [each.model for each in trial.inputs] == [None, "one"]


def test_a_trial_that_never_started_has_no_weights_as_inputs(conduct):
    def check(config: TrialConfig) -> None:
        raise WeightsUnavailable("get them there")

    controller = conduct(draw_of("a", 1), check=check)
    assert controller.next_trial(TEMPLATE) is None
    (trial,) = controller.state.trials.values()
    assert (trial.status, trial.inputs) == ("unavailable", [Inputs("data", None)])


def test_a_searcher_that_draws_otherwise_loses_no_trial_and_runs_none_twice(conduct, tmp_path: Path):
    first = conduct(draw_of("a", 1), draw_of("b", 2))
    first.next_trial(TEMPLATE), first.next_trial(TEMPLATE)
    first.ended("key-1", TrialRecord(1.0, {OBJECTIVE: 0.7}))
    first.ledger.close()
    second = resumed(conduct, tmp_path, draw_of("x", 9), draw_of("a", 1), draw_of("b", 2))
    placed = []
    while (spec := second.next_trial(TEMPLATE)) is not None:
        placed.append(spec.trial_key)
    assert placed == ["key-2", "key-9"]


def test_a_trial_killed_for_memory_gets_half_of_it_and_the_same_key(conduct):
    controller = conduct(draw_of("a", 1), search=SearchSettings(max_retries=2))
    template = replace(TEMPLATE, memory_budget_gb=8.0)
    budgets, keys = [], set()
    for _ in range(3):
        spec = controller.next_trial(template)
        budgets.append(spec.trial.execution.memory_budget_gb)
        keys.add(spec.trial_key)
        controller.failed("key-1", "killed_for_memory", "the machine ran out")
    assert budgets == [8.0, 4.0, 2.0]
    assert keys == {"key-1"}
    assert controller.next_trial(TEMPLATE) is None


def test_a_micro_batch_that_was_set_is_halved_instead(conduct):
    draw = Draw("a", TrialConfig.model_validate({"execution": {"micro_batch_size": 6}}))
    controller = conduct(draw, search=SearchSettings(max_retries=3))
    template = replace(TEMPLATE, memory_budget_gb=8.0)
    key, sizes = f"key-{draw.config.lora.rank}", []
    for _ in range(4):
        trial = controller.next_trial(template).trial
        sizes.append((trial.execution.micro_batch_size, trial.execution.memory_budget_gb))
        assert science(trial) == science(draw.config)
        controller.failed(key, "killed_for_memory", "the machine ran out")
    assert sizes == [(6, None), (3, None), (1, None), (1, None)]


def test_what_was_mended_stands_in_the_ledger_and_is_said(conduct, tmp_path: Path):
    controller, said = conduct(draw_of("a", 1)), []
    controller.observer.on_message = said.append
    controller.next_trial(TEMPLATE)
    controller.ended("key-1", TrialRecord(1.0, {OBJECTIVE: 0.7}, warnings=["step-6 is damaged"]))
    events = [entry.event for entry in LedgerReader(tmp_path).poll()]
    assert [event.message for event in events if isinstance(event, TrialWarned)] == ["step-6 is damaged"]
    assert said == ["a: step-6 is damaged"]
    assert read_ledger(tmp_path).trials["key-1"].status == "finished"


def test_after_crashes_in_a_row_the_rest_is_left_for_a_resume(conduct, tmp_path: Path):
    controller = conduct(*(draw_of(f"rank {rank}", rank) for rank in range(1, 9)))
    for rank in range(1, 6):
        assert controller.next_trial(TEMPLATE).trial_key == f"key-{rank}"
        controller.died(f"key-{rank}", "process_died", "died")
    assert controller.next_trial(TEMPLATE) is None
    assert not controller.may_place()
    assert controller.exit_code() == 3
    controller.record(SweepFinished(exit_code=3, seconds=1.0, is_cut_short=True))
    assert not read_ledger(tmp_path).is_complete


def test_an_epoch_between_crashes_clears_the_machine(conduct):
    controller = conduct(*(draw_of(f"rank {rank}", rank) for rank in range(1, 9)))
    for rank in range(1, 9):
        controller.next_trial(TEMPLATE)
        controller.reported(f"key-{rank}", 1, {"train/loss": 1.0})
        controller.died(f"key-{rank}", "process_died", "died")
    assert controller.may_place()


def test_the_death_of_a_node_uses_up_no_retry(conduct):
    controller = conduct(draw_of("a", 1))
    for attempt in range(1, 4):
        assert controller.next_trial(TEMPLATE).attempt == attempt
        controller.failed("key-1", "node_died", "Ray broke down")
    assert controller.state.trials["key-1"].status == "placed"
    controller.next_trial(TEMPLATE)
    controller.failed("key-1", "node_died", "Ray broke down")
    controller.next_trial(TEMPLATE)
    controller.failed("key-1", "node_died", "Ray broke down")
    assert controller.state.trials["key-1"].status == "failed"  # five in a row: it takes them down itself


def test_a_lost_node_uses_up_no_retry_and_counts_once(conduct):
    controller = conduct(*(draw_of(f"rank {rank}", rank) for rank in range(1, 9)))
    for _ in range(1, 9):
        controller.next_trial(TEMPLATE)
    for rank in range(1, 9):
        controller.lost_node(f"key-{rank}", {"aa"})
    assert {trial.status for trial in controller.state.trials.values()} == {"placed"}
    assert controller.circuit_breaker.num_crashes == 1
    assert controller.may_place()
    assert controller.state.trials["key-1"].failures == [(1, "node_died", "node aa was lost or preempted")]


def test_workers_that_die_count_as_processes_that_die(conduct):
    controller = conduct(*(draw_of(f"rank {rank}", rank) for rank in range(1, 9)))
    for rank in range(1, 6):
        controller.next_trial(TEMPLATE)
        controller.ended(f"key-{rank}", TrialRecord(1.0, cause="process_died", message="a worker died"))
    assert not controller.may_place()


def test_a_bug_is_no_dead_process(conduct):
    controller = conduct(*(draw_of(f"rank {rank}", rank) for rank in range(1, 9)))
    for rank in range(1, 9):
        controller.next_trial(TEMPLATE)
        controller.ended(f"key-{rank}", TrialRecord(1.0, cause="crash", message="KeyError: 'x'"))
    assert controller.may_place()


def test_a_trial_left_undone_makes_no_complete_sweep(conduct):
    controller = conduct(draw_of("a", 1), draw_of("b", 2))
    controller.next_trial(TEMPLATE), controller.next_trial(TEMPLATE)
    controller.ended("key-1", TrialRecord(1.0, {OBJECTIVE: 0.7}))
    assert controller.is_cut_short
    assert controller.exit_code() == 3
    controller.ended("key-2", TrialRecord(1.0, {OBJECTIVE: 0.7}))
    assert (controller.is_cut_short, controller.exit_code()) == (False, 0)


def test_only_trials_that_are_there_wait_for_space(conduct):
    controller = conduct(draw_of("a", 1))
    controller.circuit_breaker.free = lambda _: 0
    assert controller.next_trial(TEMPLATE) is None
    assert controller.waits_for_space()
    controller.circuit_breaker.free = lambda _: 2**40
    assert controller.next_trial(TEMPLATE).trial_key == "key-1"
    controller.circuit_breaker.free = lambda _: 0
    assert controller.next_trial(TEMPLATE) is None
    assert not controller.waits_for_space()  # the last one runs: nothing else is to come


def test_weights_that_were_missed_are_not_looked_for_again_by_this_driver(conduct, tmp_path: Path):
    draws = [*(draw_of(f"r{rank}", rank) for rank in (1, 2, 4)), other_model("other")]
    controller = conduct(*draws)
    first = controller.next_trial(TEMPLATE)
    controller.failed(first.trial_key, "unavailable", "get them there")
    spec = controller.next_trial(TEMPLATE)
    assert controller.state.trials[spec.trial_key].name == "other"
    ended = [trial for trial in controller.state.trials.values() if trial.status == "unavailable"]
    assert [(trial.name, trial.message) for trial in ended] == [
        (f"r{r}", "get them there") for r in (1, 2, 4)
    ]
    controller.ledger.close()
    another = resumed(conduct, tmp_path, *draws, retry_failed=True)
    assert another.next_trial(TEMPLATE).trial_key == first.trial_key


def other_model(name: str) -> Draw:
    return Draw(name, TrialConfig(encoder=EncoderConfig(name="dual:other+other")))


def test_a_draw_that_fails_its_check_fails_without_being_started(conduct):
    def check(config: TrialConfig) -> None:
        if config.lora.rank == 1:
            raise ConfigError("lora.rank=1: not here")

    controller = conduct(draw_of("a", 1), draw_of("b", 2), check=check)
    assert controller.next_trial(TEMPLATE).trial_key == "key-2"
    failed = controller.state.trials["key-1"]
    assert (failed.status, failed.cause, failed.message) == ("failed", "user_error", "lora.rank=1: not here")
    assert controller.searcher.told == [("a", None)]
    controller.ended("key-2", TrialRecord(1.0, {OBJECTIVE: 0.7}))
    assert controller.next_trial(TEMPLATE) is None
    assert controller.exit_code() == 3


def test_a_baseline_is_placed_with_its_own_objective_and_scores_under_it(conduct):
    config = TrialConfig(adapt=AdaptConfig(method="baseline"))
    controller = conduct(Draw("ResNet-18", config, is_baseline=True), draw_of("rank=4", 4))
    baseline, adapted = controller.next_trial(TEMPLATE), controller.next_trial(TEMPLATE)
    assert (baseline.objective, adapted.objective) == ("val/baseline/macro_auroc", OBJECTIVE)
    controller.reported(baseline.trial_key, 1, {"val/baseline/macro_auroc": 0.8, "val/baseline/nll": 0.5})
    trial = read_ledger(controller.folder).trials[baseline.trial_key]
    assert (trial.value(OBJECTIVE), trial.value("val/zero_shot_unseen/nll")) == (0.8, 0.5)
    assert trial.value("val/probe_joint/ece") is None
