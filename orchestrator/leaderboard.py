"""What a sweep found, read from its ledger: every system of every arm, ranked on val. `report` draws it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.ledger import SweepState, TrialState

SYSTEMS = ("probe_joint", "probe_pooled", "zero_shot_unseen")
CONTROLS = {
    "control_prior": "label prior",
    "control_thumbnail": "8 × 8 thumbnail",
    "control_border": "image border",
}
NEAR_THE_BEST = 0.03  # a control that comes this close to the best probe explains most of its score


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, where one was computed."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """One system of one arm; an arm is one trial, or one configuration over several seeds and folds."""

    name: str
    arm_key: str
    trial_keys: tuple[str, ...]
    is_baseline: bool
    method: str
    lora_rank: int | None
    lora_modules: str | None
    system: str
    objective: Estimate  # this system's own value of the objective's metric, on val
    accuracy: Estimate | None  # on val
    test_accuracy: Estimate | None
    test_auroc: Estimate | None
    over_frozen: Estimate | None  # accuracy on test minus the strongest frozen probe's, paired
    error_cut: Estimate | None  # the same difference as a share of that probe's errors
    is_reference: bool  # it is that probe
    num_trainable: int | None
    seconds: float
    stopped_early: bool


@dataclass(frozen=True)
class Control:
    """What a classifier scores that has seen no lungs."""

    system: str
    objective: Estimate | None
    accuracy: Estimate | None
    test_accuracy: Estimate | None
    test_auroc: Estimate | None


@dataclass(frozen=True)
class Absent:
    """A trial without a score, and why."""

    name: str
    status: str
    reason: str


@dataclass(frozen=True)
class Leaderboard:
    """What a sweep found. `rows` are ranked, the best first."""

    sweep: str
    objective: str
    rows: tuple[Row, ...]
    controls: tuple[Control, ...]
    absent: tuple[Absent, ...]
    test_opened: str | None  # when, ISO 8601; None = not yet
    shortcut: str | None  # a control that comes near the best probe, in words
    notes: tuple[str, ...]  # what the evaluation had to leave out
    is_finished: bool

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as JSON-like values."""
        rows = [{"rank": rank} | asdict(row) for rank, row in enumerate(self.rows, start=1)]
        return asdict(self) | {"rows": rows}

    def to_json(self) -> str:
        """Returns all of it as JSON."""
        return json.dumps(self.to_dict(), indent=1)


def leaderboard(state: SweepState) -> Leaderboard:
    """Ranks every system by the objective's metric on val; test values stand where the labels were opened."""
    rows = [
        row for arm in finished_arms(state) for system in SYSTEMS if (row := read_row(state, arm, system))
    ]
    rows.sort(key=lambda row: -row.objective.value)
    controls = tuple(read_controls(state))
    return Leaderboard(
        sweep=state.name,
        objective=objective(state),
        rows=tuple(rows),
        controls=controls,
        absent=tuple(read_absent(state)),
        test_opened=state.test_opened[0]["time"] if state.test_opened else None,
        shortcut=find_shortcut(rows, controls, objective(state)),
        notes=tuple((state.evaluated or {}).get("notes", [])),
        is_finished=state.finished is not None,
    )


def objective(state: SweepState) -> str:
    """Returns the key that ranks trials, such as `val/probe_joint/macro_auroc`; higher is better."""
    return state.started.get("objective", "val/probe_joint/macro_auroc")


def best_trial(state: SweepState) -> TrialState | None:
    """Returns the finished trial with the highest objective, ties by negative log-likelihood."""
    key = objective(state)
    nll = f"{key.rpartition('/')[0]}/nll"
    ranked = [trial for trial in state.trials.values() if trial.status == "finished" and key in trial.metrics]
    return max(ranked, key=lambda trial: (trial.metrics[key], -trial.metrics.get(nll, 0.0)), default=None)


def finished_arms(state: SweepState) -> list[list[TrialState]]:
    """Returns the finished trials as placed, those that differ in seed and fold alone together."""
    arms: dict[str, list[TrialState]] = {}
    for trial in state.trials.values():
        if trial.status == "finished":
            arms.setdefault(trial.arm_key, []).append(trial)
    return list(arms.values())


def read_row(state: SweepState, arm: Sequence[TrialState], system: str) -> Row | None:
    """Returns one system of an arm; None if its trials did not score it."""
    first, metric = arm[0], objective(state).rpartition("/")[2]
    score = over_trials(arm, f"val/{system}/{metric}")
    if score is None:
        return None
    test, method = opened_metrics(state, arm), first.config.get("adapt.method", "none")
    with_lora = "lora" in method
    num_trainable = first.metrics.get("perf/num_trainable_parameters")
    return Row(
        name=first.name if len(arm) == 1 else f"{first.name} (×{len(arm)})",
        arm_key=first.arm_key,
        trial_keys=tuple(trial.trial_key for trial in arm),
        is_baseline=first.is_baseline,
        method=method,
        lora_rank=first.config.get("lora.rank") if with_lora else None,
        lora_modules=first.config.get("lora.target_modules") if with_lora else None,
        system=system,
        objective=score,
        accuracy=over_trials(arm, f"val/{system}/accuracy"),
        test_accuracy=estimate(test, f"test/{system}/accuracy"),
        test_auroc=estimate(test, f"test/{system}/macro_auroc"),
        over_frozen=over_frozen_probe(state, first.arm_key, system, "accuracy"),
        error_cut=over_frozen_probe(state, first.arm_key, system, "error_cut"),
        is_reference=reference(state) == (first.arm_key, system),
        num_trainable=None if num_trainable is None else int(num_trainable),
        seconds=sum(trial.seconds for trial in arm),
        stopped_early=any(trial.stopped_early for trial in arm),
    )


def estimate(metrics: Mapping[str, float], key: str) -> Estimate | None:
    """Returns a metric with its `_low` and `_high` twins; None if it is absent."""
    if key not in metrics:
        return None
    return Estimate(metrics[key], metrics.get(f"{key}_low"), metrics.get(f"{key}_high"))


def over_trials(arm: Sequence[TrialState], key: str) -> Estimate | None:
    """Returns a trial's estimate; over several seeds or folds the mean, without an interval by patient."""
    found = [each for trial in arm if (each := estimate(trial.metrics, key))]
    if len(found) <= 1:
        return found[0] if found else None
    return Estimate(sum(each.value for each in found) / len(found))


def opened_metrics(state: SweepState, arm: Sequence[TrialState]) -> Mapping[str, float]:
    """Returns what `evaluate` found for an arm: pooled over its folds and seeds where there are several."""
    evaluated, first = state.evaluated or {}, arm[0]
    if first.arm_key in evaluated.get("pooled", {}):
        return evaluated["pooled"][first.arm_key]
    is_alone = len(arm) == 1 and first.config.get("data.fold") is None
    return evaluated.get("arms", {}).get(first.trial_key, {}) if is_alone else {}  # one fold is no result


def reference(state: SweepState) -> tuple[str, str] | None:
    """Returns arm and system of the strongest frozen probe on test: what adaptation has to beat."""
    found = (state.evaluated or {}).get("reference")
    return (found["arm"], found["system"]) if found else None


def over_frozen_probe(state: SweepState, arm_key: str, system: str, metric: str) -> Estimate | None:
    """Returns how far a system is above the reference on the same test images, with its paired interval."""
    for pair in (state.evaluated or {}).get("paired", []):
        sides = (pair["arm_a"], pair["system_a"]), (pair["arm_b"], pair["system_b"])
        if sides == ((arm_key, system), reference(state)) and pair["metric"] == metric:
            return Estimate(pair["difference"], pair["low"], pair["high"])
    return None


def read_controls(state: SweepState) -> Iterator[Control]:
    """Yields the controls, from the first trial that has them: they do not depend on the encoder."""
    metric = objective(state).rpartition("/")[2]
    opened = (state.evaluated or {}).get("controls", {})
    for system in CONTROLS:
        scored = [
            trial.metrics for trial in state.trials.values() if f"val/{system}/{metric}" in trial.metrics
        ]
        val = scored[0] if scored else {}
        control = Control(
            system=system,
            objective=estimate(val, f"val/{system}/{metric}"),
            accuracy=estimate(val, f"val/{system}/accuracy"),
            test_accuracy=estimate(opened, f"test/{system}/accuracy"),
            test_auroc=estimate(opened, f"test/{system}/macro_auroc"),
        )
        if control.objective or control.test_accuracy:
            yield control


def read_absent(state: SweepState) -> Iterator[Absent]:
    """Yields the trials without a score: failed, unavailable, interrupted or still running."""
    for trial in state.trials.values():
        if trial.status in ("failed", "unavailable"):
            yield Absent(
                trial.name,
                trial.status,
                f"{trial.cause}: {trial.message}" if trial.message else str(trial.cause),
            )
        elif trial.status != "finished":
            is_over = state.finished is not None
            yield Absent(
                trial.name,
                "interrupted" if is_over else trial.status,
                "run the sweep again: finished adapters are reused" if is_over else "",
            )


def find_shortcut(rows: Sequence[Row], controls: Sequence[Control], key: str) -> str | None:
    """Returns a sentence if a control comes near the best probe: then the score says little about lungs."""
    probes = [row.objective.value for row in rows if row.system.startswith("probe")]
    scored = [(control.objective.value, control.system) for control in controls if control.objective]
    if not probes or not scored:
        return None
    best, (value, system) = max(probes), max(scored)
    if value < best - NEAR_THE_BEST:
        return None
    metric = key.rpartition("/")[2]
    return (
        f"shortcut: the control '{CONTROLS[system]}' scores {value:.3f} {metric}, the best probe {best:.3f}. "
        "The classes can be told apart without lungs; check sources and acquisition before believing a row."
    )
