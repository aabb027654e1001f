"""Prepares the resumption of a sweep: reads its space from the ledger, and refuses changed inputs."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.planning import provenance
from orchestrator.planning.identity import Identity, by_name, weights_of
from orchestrator.search.space import SearchSpace
from orchestrator.search.space_file import read_space
from orchestrator.storage.ledger import SweepState, read_ledger
from orchestrator.storage.paths import sweep_folder
from trainables.artifacts import fingerprint
from trainables.config import TrialConfig, from_flat
from trainables.errors import ConfigError, DataError
from trainables.shell import command


def read_started(name: str) -> SweepState:
    """Returns the state of a sweep that was started.

    Raises:
        ConfigError: the name is not a valid folder name.
        DataError: the sweep does not exist (suggests the nearest name), or the ledger is damaged or empty.
    """
    state = read_ledger(sweep_folder(name))
    if not state.began:
        raise DataError(
            f"sweep '{name}' ended before its first trial, so there is nothing to resume; start it: "
            + command(f"sweep SPACE --name {name}")
        )
    return state


def space_of(state: SweepState, *, extend: int | None = None, num_workers: int | None = None) -> SearchSpace:
    """Returns the search space in a sweep's ledger, with `extend` more trials.

    Raises:
        ConfigError: the space has fewer trials left than `extend`.
    """
    changes = {"execution.num_workers": num_workers} if num_workers else {}
    space = read_space(state.started.space, changes=changes)
    if extend is None:
        return space
    if space.arms or not space.parameters:
        kind = "already compares all its arms" if space.arms else "has no parameters to vary"
        raise ConfigError(f"--extend {extend}: sweep '{state.name}' {kind}, so there is nothing to add")
    search = space.search.model_copy(update={"num_trials": space.num_trials + extend})
    extended = space.model_copy(update={"search": search})
    if extended.num_trials < space.num_trials + extend:
        left = extended.num_trials - space.num_trials
        raise ConfigError(
            f"--extend {extend}: the grid of sweep '{state.name}' has {left or 'no'} more trials"
            + (f"; use --extend {left}" if left else "; leave out --extend")
        )
    return extended


def check_drift(state: SweepState, identify: Callable[[TrialConfig], Identity]) -> None:
    """Refuses changed code, data, words or weights; `identify` returns the current ones.

    Weights that were missing at the start may be installed later, but then they must not change.

    Raises:
        DataError: something changed; the message names it. Or the ledger has no fingerprints.
    """
    if not all(trial.inputs for trial in state.trials.values()):
        raise DataError(
            f"sweep '{state.name}' was started by an older version, which did not record the data and "
            "weights of its trials, so it cannot be resumed; start a new sweep with another --name"
        )
    drifted: list[str] = []
    if (code := state.opened.code_fingerprint) and code != (now := provenance.code_fingerprint()):
        drifted.append(f"the code in trainables/ ({_change(code, now)})")
    drifted += _other_inputs(state, identify)
    if drifted:
        raise DataError(
            f"sweep '{state.name}' cannot be resumed: {' and '.join(drifted)} changed since its start, so "
            "new trials could not be compared with old ones. Undo the change, or start a new sweep with "
            "another --name"
        )


def _other_inputs(state: SweepState, identify: Callable[[TrialConfig], Identity]) -> list[str]:
    """Returns a description of each data set, words and model that changed since an attempt used it."""
    here: dict[str, Identity] = {}
    found: dict[str, str] = {}
    for trial in state.trials.values():
        config = from_flat(trial.config)
        inputs = fingerprint(config.data_to_read, weights_of(config), config.reads_words)
        if inputs not in here:
            here[inputs] = identify(config)
        now = here[inputs]
        for then in trial.inputs:
            if then.data != now.data:
                found.setdefault("the data", _change(then.data, now.data))
            if then.words not in (None, now.words):
                found.setdefault("the words of captions and prompts", _change(then.words, now.words))
            weights = by_name(config, now.model, now.captioner)
            for name, was in by_name(config, then.model, then.captioner).items():
                if was not in (None, weights[name]):
                    found.setdefault(f"the weights of {name}", _change(was, weights[name]))
    return [f"{what} ({change})" for what, change in found.items()]


def keep_keys(
    state: SweepState, identify: Callable[[TrialConfig], Identity]
) -> Callable[[TrialConfig], Identity]:
    """Returns an `identify` that keeps the keys of trials whose missing weights were installed later."""
    known: dict[str, str] = {}
    for trial in state.trials.values():
        config = from_flat(trial.config)
        first = trial.inputs[0]
        if None in by_name(config, first.model, first.captioner).values():
            now = identify(config)
            known |= {now.trial_key: trial.trial_key, now.arm_key: trial.arm_key}

    def identify_as_before(config: TrialConfig) -> Identity:
        now = identify(config)
        key, arm_key = (known.get(key, key) for key in (now.trial_key, now.arm_key))
        return now._replace(trial_key=key, arm_key=arm_key)

    return identify_as_before


def was_complete(state: SweepState, space: SearchSpace) -> bool:
    """Says whether the last driver completed all trials of this space."""
    is_same = read_space(state.started.space).num_trials == space.num_trials
    return is_same and state.is_complete


def _change(then: str | None, now: str | None) -> str:
    return f"{then} then, {now or 'none'} now"
