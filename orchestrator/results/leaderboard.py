"""Builds the leaderboard of a sweep from its ledger: every system of every arm, ranked on val."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from orchestrator.results.arms import (
    Arm,
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
from orchestrator.results.board import DIFFERENCES, Absent, Control, Difference, Leaderboard, Row
from orchestrator.results.finding_table import finding_table
from orchestrator.results.shortcuts import find_shortcuts
from orchestrator.storage.events import Evaluated
from orchestrator.storage.ledger import SweepState, TrialState
from trainables.models.catalogue.medical import seen_in_training
from trainables.scoring.metric_names import (
    BASELINES,
    CONTROLS,
    HEADLINE,
    NUM_TRAINABLE,
    PROBES,
    REUSED,
    ZERO_SHOT,
    error_cut_name,
    is_few_shot,
    metric_key,
    read_key,
    split_few_shot,
)
from trainables.scoring.significance import holm

SHOWN = (*PROBES, *(system for system in ZERO_SHOT if system != "zero_shot_training"), *BASELINES)
"""The systems of a leaderboard, without few-shot systems. Prompts seen in training prove nothing."""

Paired = Mapping[tuple[tuple[str, str], tuple[str | None, str] | None, str], Difference]
"""((arm, system), (other arm, other system), metric) → first minus other. An arm of None is a control."""


def leaderboard(state: SweepState) -> Leaderboard:
    """Returns the leaderboard: all systems, ranked by the objective's metric on val, with test values."""
    started, agreed, arms = state.started, terms(state), finished_arms(state)
    evaluated = state.evaluated or Evaluated()
    paired, frozen = read_paired(state), frozen_arms(arms)
    found = (read_row(state, arm, system, paired, frozen) for arm in arms for system in systems_of(arm))
    standing = standings(arms, agreed)
    rows = sorted(filter(None, found), key=lambda row: (standing[row.arm_key], -row.objective.value))
    rows = correct_for_many(mark_front(compare_with_best(rows, arms, agreed)))
    controls = tuple(read_controls(state, agreed.metric))
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
        shortcut=find_shortcuts(rows, controls, agreed.metric, started.task),
        notes=(*evaluated.notes, *read_overlaps(state)),
        is_finished=state.finished is not None,
        data_notes=tuple(started.data_notes),
        by_image=started.by_image,
        task=started.task,
        findings=tuple(started.findings),
        finding_table=finding_table(rows, evaluated.findings, started.findings),
    )


def systems_of(arm: Arm) -> list[str]:
    """Returns the systems that an arm may have. Few-shot systems are sorted by their number of shots."""
    measured = {read_key(key)[1] for trial in arm for key in trial.metrics if key.startswith("val/")}
    return [*SHOWN, *sorted(filter(is_few_shot, measured), key=split_few_shot)]


def compare_with_best(rows: Sequence[Row], arms: Iterable[Arm], agreed: Terms) -> list[Row]:
    """Returns the rows with `differs` set: whether a row differs from the first row over common seeds."""
    if not rows or agreed.num_whole == 1 or rows[0].breaches:
        return list(rows)

    of_key = {arm[0].arm_key: arm for arm in arms}

    def compare(row: Row) -> bool | None:
        keys = [metric_key("val", each.system, agreed.metric) for each in (row, rows[0])]
        return differs(of_key[row.arm_key], keys[0], of_key[rows[0].arm_key], keys[1])

    return [rows[0], *(replace(row, differs=compare(row)) for row in rows[1:])]


def mark_front(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows with the Pareto front marked."""
    points = {
        (row.objective.value, -row.second) for row in rows if row.second is not None and not row.breaches
    }

    def is_on_front(row: Row) -> bool:
        if row.second is None or row.breaches:
            return False
        ours = row.objective.value, -row.second
        return not any(s >= ours[0] and v >= ours[1] for s, v in points - {ours})

    return [replace(row, is_on_front=is_on_front(row)) for row in rows]


def correct_for_many(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows with corrected p-values. Each column of differences is corrected together (Holm)."""
    corrected = list(rows)
    for column in DIFFERENCES:
        found = [(place, getattr(row, column)) for place, row in enumerate(rows)]
        known = [(place, each) for place, each in found if each and each.p is not None]
        for (place, each), p in zip(known, holm([each.p for _, each in known]), strict=True):
            corrected[place] = replace(corrected[place], **{column: replace(each, p=p)})
    return corrected


def name_of(arm: Arm, agreed: Terms) -> str:
    """Returns an arm's name, with the number of its trials or seeds if it is unusual."""
    name, count = arm[0].name, len(arm)
    if agreed.num_whole == 1 or is_seedless(arm):
        return name if count == 1 else f"{name} (×{count})"
    if count == 1:
        return f"{name} (one seed)"
    whole = count >= agreed.num_whole
    return f"{name} (×{count})" if whole else f"{name} ({count} of {agreed.num_whole} seeds)"


def read_row(
    state: SweepState, arm: Arm, system: str, paired: Paired, frozen: Mapping[str, Sequence[str]]
) -> Row | None:
    """Returns the row of one system of an arm, or None if the arm's trials have no score for the system."""
    first, agreed, evaluated = arm[0], terms(state), state.evaluated or Evaluated()
    headline = HEADLINE[state.started.task]
    score = over_trials(arm, metric_key("val", system, agreed.metric), agreed)
    if score is None:
        return None
    ours, best = (first.arm_key, system), _named(evaluated.reference)
    test, method = opened_metrics(state, arm), first.config.get("adapt.method", "none")
    num_trainable = first.metrics.get(NUM_TRAINABLE)
    selves = (paired.get((ours, (key, system), headline)) for key in frozen.get(encoder_of(first), ()))
    return Row(
        name=name_of(arm, agreed),
        arm_key=first.arm_key,
        trial_keys=tuple(trial.trial_key for trial in arm),
        is_baseline=first.is_baseline,
        method=method,
        lora_rank=first.config.get("lora.rank") if "lora" in method else None,
        lora_modules=first.config.get("lora.target_modules") if "lora" in method else None,
        classifier=first.config.get("baseline.architecture") if method == "baseline" else None,
        system=system,
        objective=score,
        num_seeds=None if agreed.num_whole == 1 or is_seedless(arm) else len(arm),
        breaches=broken_by(arm, agreed),
        second=mean(arm, agreed.also_minimise) if agreed.also_minimise else None,
        accuracy=over_trials(arm, metric_key("val", system, "accuracy"), agreed),
        test_accuracy=estimate(test, metric_key("test", system, "accuracy")),
        test_auroc=estimate(test, metric_key("test", system, "macro_auroc")),
        average_precision=over_trials(arm, metric_key("val", system, "macro_ap"), agreed),
        test_average_precision=estimate(test, metric_key("test", system, "macro_ap")),
        over_frozen=paired.get((ours, best, headline)),
        over_self=next(filter(None, selves), None),
        over_first=paired.get((ours, _named(evaluated.first), headline)),
        error_cut=paired.get((ours, best, error_cut_name(headline))),
        is_reference=ours == best,
        num_trainable=None if num_trainable is None else int(num_trainable),
        seconds=sum(trial.seconds for trial in arm),
        is_reused=any(key in trial.metrics for trial in arm for key in REUSED),
        stopped_early=any(trial.stopped_early for trial in arm),
    )


def opened_metrics(state: SweepState, arm: Arm) -> Mapping[str, float]:
    """Returns an arm's test metrics, pooled if the arm has several folds or seeds."""
    evaluated, first = state.evaluated or Evaluated(), arm[0]
    if first.arm_key in evaluated.pooled:
        return evaluated.pooled[first.arm_key]
    is_alone = len(arm) == 1 and first.config.get("data.fold") is None
    return evaluated.arms.get(first.trial_key, {}) if is_alone else {}  # a single fold is not a result


def frozen_arms(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """Returns encoder → keys of its frozen arms. An encoder has several if their probes differ."""
    found: dict[str, list[str]] = {}
    for arm in filter(is_seedless, arms):
        found.setdefault(encoder_of(arm[0]), []).append(arm[0].arm_key)
    return found


def encoder_of(trial: TrialState) -> str:
    """Returns a text that is equal only for trials of the same encoder."""
    return json.dumps({k: v for k, v in trial.config.items() if k.startswith("encoder.")}, sort_keys=True)


def _named(found: dict[str, str] | None) -> tuple[str, str] | None:
    """Returns (arm, system) of an entry such as `reference` or `first`, or None."""
    return (found["arm"], found["system"]) if found else None


def read_paired(state: SweepState) -> Paired:
    """Returns the differences between systems on the same test images, with paired intervals."""
    return {
        ((row["arm_a"], row["system_a"]), (row["arm_b"], row["system_b"]), row["metric"]): Difference(
            row["difference"], row["low"], row["high"], p=row.get("p")
        )
        for row in (state.evaluated or Evaluated()).paired
    }


def read_controls(state: SweepState, metric: str) -> Iterator[Control]:
    """Yields the controls, from the first trial that has them. Controls do not depend on the encoder."""
    opened = (state.evaluated or Evaluated()).controls
    for system in CONTROLS:
        key = metric_key("val", system, metric)
        scored = [trial.metrics for trial in state.trials.values() if key in trial.metrics]
        val = scored[0] if scored else {}
        control = Control(
            system=system,
            objective=estimate(val, key),
            accuracy=estimate(val, metric_key("val", system, "accuracy")),
            test_accuracy=estimate(opened, metric_key("test", system, "accuracy")),
            test_auroc=estimate(opened, metric_key("test", system, "macro_auroc")),
            average_precision=estimate(val, metric_key("val", system, "macro_ap")),
            test_average_precision=estimate(opened, metric_key("test", system, "macro_ap")),
        )
        if control.objective or control.is_tested:
            yield control


def read_absent(state: SweepState) -> Iterator[Absent]:
    """Yields the trials without a score: failed, unavailable, interrupted or still running.

    Trials with the same name and the same reason become one entry, which shows their number.
    """
    for absent, count in Counter(_each_absent(state)).items():
        yield absent if count == 1 else replace(absent, name=f"{absent.name} (×{count})")


def _each_absent(state: SweepState) -> Iterator[Absent]:
    is_over = state.finished is not None
    for trial in state.trials.values():
        if trial.status in ("failed", "unavailable"):
            reason = f"{trial.cause}: {trial.message}" if trial.message else str(trial.cause)
            yield Absent(trial.name, trial.status, reason)
        elif trial.status != "finished":
            again = "run the sweep again; finished adapters are reused"
            yield Absent(trial.name, "interrupted" if is_over else trial.status, again if is_over else "")


def read_overlaps(state: SweepState) -> Iterator[str]:
    """Yields a sentence for each encoder that saw images of the test data in its own training."""
    configs = [trial.config for trial in state.trials.values()]
    pairs = dict.fromkeys(
        (config.get("encoder.name", ""), name)
        for config in configs
        for name in config.get("data.union") or [config.get("data.dataset", "")]
    )
    for encoder, data_set in pairs:
        yield from seen_in_training(encoder, data_set)
