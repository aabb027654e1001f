"""What a sweep found, read from its ledger: every system of every arm, ranked on val. `report` draws it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator.results.arms import (
    Arm,
    Estimate,
    Terms,
    broken_by,
    differs,
    estimate,
    finished_arms,
    is_seedless,
    mean,
    over_trials,
    standings,
    terms,
)
from orchestrator.search.constraints import Breach, Limit
from orchestrator.search.metric_keys import BASELINES, own_key
from orchestrator.storage.events import Evaluated
from orchestrator.storage.ledger import SweepState, TrialState
from trainables.models.catalogue.medical import seen_in_training
from trainables.scoring.system_names import is_few_shot, split_few_shot

SYSTEMS = (
    "probe_joint",
    "probe_pooled",
    "zero_shot_unseen",
    "zero_shot_class_name",
    "zero_shot_template",
    "zero_shot_pair",
    *BASELINES,
)
CONTROLS = {
    "control_prior": "label prior",
    "control_thumbnail": "8 × 8 thumbnail",
    "control_border": "image border",
}
NEAR_THE_BEST = 0.03  # a control that comes this close to the best probe explains most of its score
Paired = Mapping[tuple[tuple[str, str], tuple[str | None, str] | None, str], Estimate]
"""Arm and system, another arm (None: a control) and system, metric → how far the one is above the other."""


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
    classifier: str | None  # the architecture of a baseline
    system: str
    objective: Estimate  # this system's own value of the objective's metric, on val
    num_seeds: int | None  # that it stands for; None: it has no seed, or its sweep confirms nothing
    differs: bool | None  # from the best row, over the same seeds; None: not known
    breaches: tuple[Breach, ...]  # constraints that do not hold: then it is infeasible
    second: float | None  # what is minimised too
    is_on_front: bool  # of the rows that hold the constraints none is as good in both and better in one
    accuracy: Estimate | None  # on val
    test_accuracy: Estimate | None
    test_auroc: Estimate | None
    over_frozen: Estimate | None  # accuracy on test minus the strongest frozen probe's, paired
    over_self: Estimate | None  # the same minus that of the same system of its own frozen encoder, paired
    over_first: Estimate | None  # the same minus that of the row that stood first on val, paired
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
    """What a sweep found. `rows` are ranked: confirmed arms, then others, then infeasible ones."""

    sweep: str
    objective: str
    also_minimise: str | None
    constraints: dict[str, Limit]
    num_seeds: int  # that whole arms stand for; 1 = nothing is confirmed or repeated
    is_confirmed: bool  # the best arms alone run on all of them, chosen by their first
    rows: tuple[Row, ...]
    controls: tuple[Control, ...]
    absent: tuple[Absent, ...]
    test_opened: str | None  # when, ISO 8601; None = not yet
    shortcut: str | None  # a control that comes near the best probe, in words
    notes: tuple[str, ...]  # what the evaluation had to leave out, and what encoders had seen before
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
    agreed, arms = terms(state), finished_arms(state)
    paired = read_paired(state)
    frozen = frozen_arms(arms)
    found = (read_row(state, arm, system, paired, frozen) for arm in arms for system in systems_of(arm))
    rows = [row for row in found if row]
    standing = standings(arms, agreed)
    rows.sort(key=lambda row: (standing[row.arm_key], -row.objective.value))
    rows = mark_front(compare_with_best(state, rows))
    controls = tuple(read_controls(state))
    return Leaderboard(
        sweep=state.name,
        objective=agreed.objective,
        also_minimise=agreed.also_minimise,
        constraints=agreed.limits,
        num_seeds=agreed.num_whole,
        is_confirmed=agreed.num_seeds > 1,
        rows=tuple(rows),
        controls=controls,
        absent=tuple(read_absent(state)),
        test_opened=state.test_opened[0][0] if state.test_opened else None,
        shortcut=find_shortcut(rows, controls, agreed.objective),
        notes=(*(state.evaluated or Evaluated()).notes, *read_overlaps(state)),
        is_finished=state.finished is not None,
    )


def systems_of(arm: Arm) -> list[str]:
    """Returns the systems that an arm may have, few-shot ones with few shots first."""
    measured = {key.split("/")[1] for trial in arm for key in trial.metrics if key.startswith("val/")}
    return [*SYSTEMS, *sorted(filter(is_few_shot, measured), key=split_few_shot)]


def metric_of(state: SweepState) -> str:
    """Returns the objective's metric, by which every system is ranked."""
    return terms(state).objective.rpartition("/")[2]


def compare_with_best(state: SweepState, rows: Sequence[Row]) -> list[Row]:
    """Returns the rows, each with whether it can be told apart from the first on their common seeds."""
    agreed, arms = terms(state), {arm[0].arm_key: arm for arm in finished_arms(state)}
    if not rows or agreed.num_whole == 1 or rows[0].breaches:
        return list(rows)

    def compare(row: Row) -> bool | None:
        keys = [f"val/{system}/{metric_of(state)}" for system in (row.system, rows[0].system)]
        return differs(arms[row.arm_key], keys[0], arms[rows[0].arm_key], keys[1])

    return [rows[0], *(replace(row, differs=compare(row)) for row in rows[1:])]


def mark_front(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows with the Pareto front marked: no feasible row is as good in both and better in one."""
    points = [
        (row.objective.value, -row.second) for row in rows if row.second is not None and not row.breaches
    ]

    def is_on_front(row: Row) -> bool:
        if row.second is None or row.breaches:
            return False
        score, saved = row.objective.value, -row.second
        return not any(s >= score and v >= saved and (s, v) != (score, saved) for s, v in points)

    return [replace(row, is_on_front=is_on_front(row)) for row in rows]


def name_of(arm: Arm, agreed: Terms) -> str:
    """Returns an arm's name, with the number of its trials where it is not the usual one."""
    name, count = arm[0].name, len(arm)
    if agreed.num_whole == 1 or is_seedless(arm):
        return name if count == 1 else f"{name} (×{count})"
    if count == 1:
        return f"{name} (one seed)"
    return (
        f"{name} (×{count})" if count >= agreed.num_whole else f"{name} ({count} of {agreed.num_whole} seeds)"
    )


def read_row(
    state: SweepState, arm: Arm, system: str, paired: Paired, frozen: Mapping[str, Sequence[str]]
) -> Row | None:
    """Returns one system of an arm; None if its trials did not score it.

    Args:
        state: of the sweep.
        arm: its finished trials.
        system: such as `probe_joint`.
        paired: see `read_paired`.
        frozen: see `frozen_arms`.
    """
    first, agreed = arm[0], terms(state)
    score = over_trials(arm, f"val/{system}/{metric_of(state)}", agreed)
    if score is None:
        return None
    ours, best = (first.arm_key, system), reference(state)
    test, method = opened_metrics(state, arm), first.config.get("adapt.method", "none")
    with_lora = "lora" in method
    num_trainable = first.metrics.get("perf/num_trainable_parameters")
    selves = (paired.get((ours, (key, system), "accuracy")) for key in frozen.get(encoder_of(first), ()))
    return Row(
        name=name_of(arm, agreed),
        arm_key=first.arm_key,
        trial_keys=tuple(trial.trial_key for trial in arm),
        is_baseline=first.is_baseline,
        method=method,
        lora_rank=first.config.get("lora.rank") if with_lora else None,
        lora_modules=first.config.get("lora.target_modules") if with_lora else None,
        classifier=first.config.get("baseline.architecture") if method == "baseline" else None,
        system=system,
        objective=score,
        num_seeds=None if agreed.num_whole == 1 or is_seedless(arm) else len(arm),
        differs=None,
        breaches=broken_by(arm, agreed),
        second=mean(arm, own_key(agreed.also_minimise, first.config)) if agreed.also_minimise else None,
        is_on_front=False,
        accuracy=over_trials(arm, f"val/{system}/accuracy", agreed),
        test_accuracy=estimate(test, f"test/{system}/accuracy"),
        test_auroc=estimate(test, f"test/{system}/macro_auroc"),
        over_frozen=paired.get((ours, best, "accuracy")),
        over_self=next(filter(None, selves), None),
        over_first=paired.get((ours, first_on_val(state), "accuracy")),
        error_cut=paired.get((ours, best, "error_cut")),
        is_reference=ours == best,
        num_trainable=None if num_trainable is None else int(num_trainable),
        seconds=sum(trial.seconds for trial in arm),
        stopped_early=any(trial.stopped_early for trial in arm),
    )


def opened_metrics(state: SweepState, arm: Arm) -> Mapping[str, float]:
    """Returns what `evaluate` found for an arm: pooled over its folds and seeds where there are several."""
    evaluated, first = state.evaluated or Evaluated(), arm[0]
    if first.arm_key in evaluated.pooled:
        return evaluated.pooled[first.arm_key]
    is_alone = len(arm) == 1 and first.config.get("data.fold") is None
    return evaluated.arms.get(first.trial_key, {}) if is_alone else {}  # one fold is no result


def frozen_arms(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """Returns encoder → keys of the arms that leave it frozen, several where their probes differ."""
    found: dict[str, list[str]] = {}
    for arm in arms:
        if arm[0].config.get("adapt.method") == "none":
            found.setdefault(encoder_of(arm[0]), []).append(arm[0].arm_key)
    return found


def encoder_of(trial: TrialState) -> str:
    """Returns what tells a trial's encoder from others: every field of it."""
    return json.dumps({k: v for k, v in trial.config.items() if k.startswith("encoder.")}, sort_keys=True)


def reference(state: SweepState) -> tuple[str, str] | None:
    """Returns arm and system of the strongest frozen probe on test: what adaptation has to beat."""
    found = (state.evaluated or Evaluated()).reference
    return (found["arm"], found["system"]) if found else None


def first_on_val(state: SweepState) -> tuple[str, str] | None:
    """Returns arm and system of the row that stood first on val when the test labels were opened."""
    found = (state.evaluated or Evaluated()).first
    return (found["arm"], found["system"]) if found else None


def read_paired(state: SweepState) -> Paired:
    """Returns the differences between systems on the same test images, with their paired intervals."""
    return {
        ((row["arm_a"], row["system_a"]), (row["arm_b"], row["system_b"]), row["metric"]): Estimate(
            row["difference"], row["low"], row["high"]
        )
        for row in (state.evaluated or Evaluated()).paired
    }


def read_controls(state: SweepState) -> Iterator[Control]:
    """Yields the controls, from the first trial that has them: they do not depend on the encoder."""
    metric = metric_of(state)
    opened = (state.evaluated or Evaluated()).controls
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
    """Yields the trials without a score: failed, unavailable, interrupted or still running.

    Those of one arm that lack it for the same reason stand together, with their number.
    """
    alike = Counter(_each_absent(state))
    for absent, count in alike.items():
        yield absent if count == 1 else replace(absent, name=f"{absent.name} (×{count})")


def _each_absent(state: SweepState) -> Iterator[Absent]:
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


def read_overlaps(state: SweepState) -> Iterator[str]:
    """Yields a sentence for each encoder whose own training has seen images of the data it is tested on."""
    keys = ("encoder.name", "data.dataset")
    pairs = dict.fromkeys(tuple(trial.config.get(key, "") for key in keys) for trial in state.trials.values())
    for encoder, data_set in pairs:
        yield from seen_in_training(encoder, data_set)


def find_shortcut(rows: Sequence[Row], controls: Sequence[Control], key: str) -> str | None:
    """Returns a sentence if a control comes near the best probe: then the score says little about lungs.

    Where no encoder was probed, baselines take its place.
    """
    kept = [row for row in rows if not row.breaches]
    kind = "probe" if any(row.system.startswith("probe") for row in kept) else "baseline"
    probes = [row.objective.value for row in kept if row.system.startswith(kind)]
    scored = [(control.objective.value, control.system) for control in controls if control.objective]
    if not probes or not scored:
        return None
    best, (value, system) = max(probes), max(scored)
    if value < best - NEAR_THE_BEST:
        return None
    metric = key.rpartition("/")[2]
    return (
        f"shortcut: the control '{CONTROLS[system]}' scores {value:.3f} {metric}, the best {kind} "
        f"{best:.3f}. "
        "The classes can be told apart without lungs; check sources and acquisition before believing a row."
    )
