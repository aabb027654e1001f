"""Finds the model folder that a user names: a folder, a sweep, or a row of a sweep's leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from orchestrator.results.arms import terms
from orchestrator.results.board import Row
from orchestrator.results.leaderboard import leaderboard
from orchestrator.storage.ledger import SweepState, TrialState, read_ledger
from orchestrator.storage.paths import sweep_folder
from trainables.errors import ConfigError, DataError
from trainables.scoring.metric_names import is_few_shot, metric_key
from trainables.shell import command

MODEL, PROBLEM = "results/model", "results/no-model.txt"


class FoundModel(NamedTuple):
    """A model folder, and the system that the user's choice means (None = the model's default)."""

    folder: Path
    system: str | None
    origin: str  # for the user, such as "row 1 of sweep demo: lora rank 8, probe joint"


def find_model(name: str) -> FoundModel:
    """Returns the model of a folder, of a sweep's first row, or of the row in `SWEEP/ROW`.

    Raises:
        ConfigError: the row does not exist, or its system cannot be saved.
        DataError: there is no such folder or sweep, or the trial left no model.
    """
    folder = Path(name)
    for place in (folder, folder / "model", folder / MODEL):
        if (place / "model.json").is_file():
            return FoundModel(place, None, str(place))
    sweep, slash, number = name.partition("/")
    if folder.is_dir() or (slash and not number.isdecimal()):
        raise DataError(f"{name}: holds no model; name a folder with model.json, a SWEEP, or SWEEP/ROW")
    path = sweep_folder(sweep)
    state = read_ledger(path)
    place = int(number) if slash else 1
    rows = leaderboard(state).rows
    if not 1 <= place <= len(rows):
        raise ConfigError(
            f"{name}: the leaderboard of '{sweep}' has {len(rows)} rows; see "
            f"{command(f'leaderboard {sweep}')}"
        )
    row = rows[place - 1]
    trial = _trial_of(row, state, name)
    model = path / trial.workdir / MODEL
    if not model.is_dir():
        raise DataError(f"{name}: its trial left no model{_reason(path / trial.workdir / PROBLEM)}")
    return FoundModel(model, row.system, f"row {place} of sweep '{sweep}': {row.name}, {row.system}")


def _trial_of(row: Row, state: SweepState, name: str) -> TrialState:
    """Returns the trial of a row; of several seeds the one with the median objective on val."""
    if is_few_shot(row.system):
        raise ConfigError(
            f"{name}: {row.system} is few-shot, whose classifiers are not saved; name another row"
        )
    trials = [state.trials[key] for key in row.trial_keys]
    if trials[0].config.get("data.fold") is not None:
        raise ConfigError(
            f"{name}: is cross-validated, so each of its models saw a part of the training images; name the "
            "folder of one trial's results to use this model"
        )
    key = metric_key("val", row.system, terms(state).metric)
    ranked = sorted(trials, key=lambda trial: trial.metrics.get(key, 0.0))
    return ranked[(len(ranked) - 1) // 2]


def _reason(problem: Path) -> str:
    if problem.is_file():
        return f" ({problem.read_text().strip()})"
    return "; it is of an earlier version, or its files are on another machine: run the sweep again"
