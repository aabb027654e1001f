"""Says what batch size does once captions are many, from the ledger of a sweep of `caption_batch_size.yaml`.

    python -m orchestrator sweep caption_batch_size --name NAME
    python benchmarks/caption_batch_size.py NAME --output benchmarks/results/FILE.json

It prints the macro AUROC on test of every arm, and its difference to batch 80 with the same seed. The
interval of a difference is over seeds: it covers the chance of training, not that of the test images.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from measure import provenance, write
from scipy.stats import t

from orchestrator.storage.ledger import SweepState, TrialState, read_ledger
from orchestrator.storage.paths import sweep_folder

SYSTEMS = ("probe_joint", "zero_shot_unseen")
SMALLEST = 80


class Arm(NamedTuple):
    """What identifies an arm of the grid."""

    loss: str
    batch_size: int
    num_epochs: int

    @classmethod
    def of(cls, trial: TrialState) -> Arm | None:
        """Returns the arm of a trial, or None for the frozen encoder."""
        if trial.config["adapt.method"] == "none":
            return None
        config = trial.config
        return cls(config["loss.kind"], config["global_batch_size"], config["num_epochs"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", help="name of the sweep")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    rows = compare(read_ledger(sweep_folder(options.sweep)))
    result = provenance(__file__, arguments or sys.argv[1:], ["torch", "scikit-learn"])
    write(result | {"rows": rows}, options.output)


def compare(state: SweepState) -> list[dict[str, Any]]:
    """Returns a row for each arm and system: its score by seed, and its difference to batch 80.

    Raises:
        SystemExit: the sweep has no test results, or an arm has other seeds than batch 80.
    """
    if state.evaluated is None:
        raise SystemExit(f"sweep '{state.name}' has no test results; run it with evaluation.open_test: all")
    return [row for system in SYSTEMS for row in _rows(scores(state, system), system)]


def scores(state: SweepState, system: str) -> dict[Arm | None, dict[int, float]]:
    """Returns arm → seed → macro AUROC of a system on test; None is the frozen encoder."""
    assert state.evaluated is not None
    found: dict[Arm | None, dict[int, float]] = {}
    for trial in state.trials.values():
        value = state.evaluated.arms.get(trial.trial_key, {}).get(f"test/{system}/macro_auroc")
        if value is not None:
            found.setdefault(Arm.of(trial), {})[trial.config["seed"]] = value
    return found


def _rows(by_arm: Mapping[Arm | None, Mapping[int, float]], system: str) -> Iterator[dict[str, Any]]:
    frozen = by_arm.get(None, {})
    yield {"system": system, "arm": "frozen encoder", "mean": statistics.fmean(frozen.values())}
    smallest = {arm.loss: arm for arm in by_arm if arm is not None and arm.batch_size == SMALLEST}
    for arm in sorted(arm for arm in by_arm if arm is not None):
        values, reference = by_arm[arm], by_arm[smallest[arm.loss]]
        if values.keys() != reference.keys():
            raise SystemExit(f"{arm}: seeds {sorted(values)}, but batch {SMALLEST} has {sorted(reference)}")
        row: dict[str, Any] = {"system": system, **arm._asdict(), "mean": statistics.fmean(values.values())}
        row["by_seed"] = {seed: values[seed] for seed in sorted(values)}
        if arm.batch_size != SMALLEST:
            is_same = arm.num_epochs == smallest[arm.loss].num_epochs
            row["equal"] = "epochs" if is_same else "steps"
            row["over_smallest"] = interval([values[seed] - reference[seed] for seed in sorted(values)])
        yield row


def interval(differences: Sequence[float]) -> dict[str, float]:
    """Returns the mean of the differences over seeds, with its 95 % interval."""
    mean, num_seeds = statistics.fmean(differences), len(differences)
    error = statistics.stdev(differences) / num_seeds**0.5 if num_seeds > 1 else float("inf")
    half = float(t.ppf(0.975, max(num_seeds - 1, 1))) * error
    return {"difference": mean, "low": mean - half, "high": mean + half}


if __name__ == "__main__":
    main()
