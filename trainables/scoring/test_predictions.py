"""Reads predictions on test, holds the opened labels, and joins the folds and seeds of an arm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trainables.errors import DataError
from trainables.scoring.bootstrap import Bootstrap
from trainables.scoring.metric_names import is_few_shot, split_draw
from trainables.scoring.predictions import read_predictions
from trainables.scoring.tasks import SystemMetrics


@dataclass(frozen=True)
class ScoredTrial:
    """A trial whose test predictions will be scored."""

    trial_key: str
    arm_key: str
    seed: int
    fold: int | None
    predictions: Path
    is_frozen: bool = False  # adapt.method is none; adapted trials are compared with the probes of this one
    encoder: str = ""  # identity of the encoder before adaptation


@dataclass(frozen=True)
class Cases:
    """The opened labels: image_id → target, a class index or the labels [K] of all findings."""

    targets: Mapping[str, Any]
    patients: Mapping[str, str]  # image_id → patient
    class_names: tuple[str, ...] = ()

    def arrays(self, image_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns targets (`Dataset.targets`) and patients str [N] of these images."""
        targets = np.array([self.targets[image_id] for image_id in image_ids])
        return targets, np.array([self.patients[image_id] for image_id in image_ids], dtype=str)


BootstrapOf = Callable[[tuple[str, ...]], Bootstrap]
"""Sorted image ids → the bootstrap draws of their patients."""


@dataclass(frozen=True, eq=False)
class Scored:
    """The predictions of one system: sorted `image_ids`, and `scores` [N, K]."""

    system: str
    image_ids: tuple[str, ...]
    scores: np.ndarray
    bootstrap_of: BootstrapOf

    @cached_property
    def draws(self) -> SystemMetrics:
        """The draws of each metric. Few-shot systems have no `ece`, because it is slow."""
        bootstrap = self.bootstrap_of(self.image_ids)
        return bootstrap.draws(self.scores, with_ece=not is_few_shot(self.system))


def read_scored(trial: ScoredTrial, cases: Cases, bootstrap_of: BootstrapOf) -> dict[str, Scored]:
    """Returns the predictions of each system and each draw on a trial's test images.

    Raises:
        DataError: the file is unreadable, or the label of an image was not opened.
    """
    found: dict[str, Scored] = {}
    known, order, image_ids = None, np.empty(0, np.int64), ()
    for (_, system), scored in read_predictions(trial.predictions, split="test").items():
        if scored.image_ids is not known:  # nearly all systems share them
            known, order = scored.image_ids, np.argsort(scored.image_ids)
            image_ids = tuple(known[order].tolist())
            _check_opened(image_ids, cases, f"{trial.predictions}: {system}")
        found[system] = Scored(system, image_ids, scored.scores[order], bootstrap_of)
    return found


def _check_opened(image_ids: Sequence[str], cases: Cases, where: str) -> None:
    unknown = [image_id for image_id in image_ids if image_id not in cases.targets]
    if unknown:
        raise DataError(
            f"{where} scores '{unknown[0]}', whose test label was not opened "
            f"({len(unknown)} such images); evaluate the trial with the data that it was trained on"
        )


def by_seed(scored: Mapping[ScoredTrial, Mapping[str, Scored]]) -> dict[str, list[list[Scored]]]:
    """Returns, for each system, a list of seeds, each a list of folds. Few-shot draws count as seeds."""
    found: dict[str, dict[tuple[int, int | None], list[Scored]]] = defaultdict(lambda: defaultdict(list))
    for trial, systems in scored.items():
        seed = 0 if trial.is_frozen else trial.seed  # a frozen encoder does not use the seed
        for name, each in systems.items():
            system, draw = split_draw(name)
            found[system][seed, draw].append(each)
    return {system: list(seeds.values()) for system, seeds in found.items()}


def join_folds(parts: Sequence[Scored], num_cases: int) -> Scored | None:
    """Returns the joined predictions of all folds of one seed, or None if a test image is missing.

    Raises:
        DataError: two folds score the same image.
    """
    joined = parts[0]
    if len(parts) > 1:
        image_ids = np.array([image_id for part in parts for image_id in part.image_ids])
        order = np.argsort(image_ids)
        scores = np.concatenate([part.scores for part in parts])[order]
        joined = replace(joined, image_ids=tuple(image_ids[order].tolist()), scores=scores)
    if len(set(joined.image_ids)) < len(joined.image_ids):
        raise DataError(
            "two folds of one seed score the same test image; evaluate together only folds of the same splits"
        )
    return joined if len(joined.image_ids) == num_cases else None


def by_arm(trials: Sequence[ScoredTrial]) -> dict[str, list[ScoredTrial]]:
    """Returns the trials of each arm, frozen arms first."""
    arms: dict[str, list[ScoredTrial]] = defaultdict(list)
    for trial in sorted(trials, key=lambda trial: not trial.is_frozen):
        arms[trial.arm_key].append(trial)
    return arms
