"""Confirms the best arms and the baselines on more seeds, after the search (`search.seeds`).

The next trial depends only on the ledger, so a resumed or extended sweep needs no other memory. An arm that
has all its seeds is skipped. An arm that becomes one of the best gets more seeds. An arm that is no longer
one of the best keeps its seeds.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.results.arms import broken_by, is_seedless, rank, terms
from orchestrator.search.space import Draw, SearchSpace
from orchestrator.storage.ledger import SweepState, TrialState
from trainables.config import from_flat

UNDONE = ("placed", "running")


def next_to_confirm(state: SweepState) -> Draw | None:
    """Returns the next trial that repeats an arm on another seed, or None if none is left or known yet.

    Call it once the searcher is exhausted. While a trial of the search runs, the best arms are not known.
    """
    if any(trial.status in UNDONE and not trial.confirms for trial in state.trials.values()):
        return None
    return next(left_to_confirm(state), None)


def left_to_confirm(state: SweepState) -> Iterator[Draw]:
    """Yields the trials that the repeated arms still need, the best arm first."""
    num_seeds = terms(state).num_seeds
    known = {(trial.arm_key, trial.config.get("seed")) for trial in state.trials.values()}
    for trial in to_confirm(state):
        first = trial.config["seed"]
        for seed in range(first, first + num_seeds):
            if (trial.arm_key, seed) not in known:
                config = from_flat(trial.config | {"seed": seed})
                yield Draw(f"{trial.name} seed={seed}", config, trial.is_baseline, confirms=True)


def to_confirm(state: SweepState) -> list[TrialState]:
    """Returns the first trial of each arm to confirm: the best feasible arms, then the baselines.

    Two kinds are never confirmed: trials that a scheduler stopped, and frozen encoders, which have no seed.
    """
    agreed = terms(state)
    if agreed.num_seeds == 1:
        return []
    whole = [
        trial
        for trial in state.trials.values()
        if trial.status == "finished"
        and not (trial.confirms or trial.stopped_early)
        and trial.value(agreed.objective) is not None
    ]
    drawn = [trial for trial in whole if not trial.is_baseline and not broken_by([trial], agreed)]
    drawn.sort(key=lambda trial: rank([trial], agreed))
    chosen = drawn[: agreed.num_confirmed] + [trial for trial in whole if trial.is_baseline]
    return [trial for trial in chosen if not is_seedless([trial])]


def num_still_to_confirm(state: SweepState) -> int:
    """Returns the number of confirming trials that are left, including those of arms not yet known."""
    num_unknown = max(0, state.started.num_to_confirm - len(to_confirm(state)))
    return len(list(left_to_confirm(state))) + num_unknown * (terms(state).num_seeds - 1)


def confirmed_counts(space: SearchSpace) -> tuple[int, int]:
    """Returns the number of arms and of baselines that a space confirms, if enough arms are feasible."""
    if space.search.seeds == 1:
        return 0, 0
    baselines = [trial for trial in space.named_trials() if trial.config.adapt.method != "none"]
    return min(space.search.num_confirmed, space.num_trials), len(baselines)


def num_confirming(space: SearchSpace) -> int:
    """Returns the number of trials that confirm arms and baselines."""
    return sum(confirmed_counts(space)) * (space.search.seeds - 1)
