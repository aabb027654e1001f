"""Few-shot probes: logistic regression on k labelled images per class, over repeated draws of patients.

Nothing is tuned on val, because val has more labels than the shots. With one shot the strength λ is fixed.
With more shots, each shot is held out in turn; the chosen λ makes the held-out shots most likely. Features
are centred on the shots and divided by one common deviation, because a deviation for each feature would be
noise. The probe is not refitted on train and val together.

Each draw is a system such as `few_shot_8_joint#3`. Metrics are means over the draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Protocol

import numpy as np

from trainables.config import ProbeConfig, Split
from trainables.data.counter_rng import counter_rng
from trainables.data.records import Dataset
from trainables.errors import DataError
from trainables.scoring.embedding_store import EmbeddingTable
from trainables.scoring.logistic import FeatureSpace, LinearClassifier, PathSolver
from trainables.scoring.metric_names import draw_name, few_shot_name
from trainables.scoring.predictions import Scores, image_ids_of

STRENGTHS = tuple(10.0**power for power in range(4, -3, -1))
"""The values of λ that are tried, the strongest first. A tie goes to the stronger λ."""
ONE_SHOT_L2 = 1.0
"""The λ for a single shot, which cannot be held out."""
MAX_PARTS = 5
"""Largest number of parts for holding out. With more shots per class, a part has several shots."""


def few_shot_predictions(
    table: EmbeddingTable, dataset: Dataset, config: ProbeConfig, splits: Sequence[Split] = ("val", "test")
) -> dict[tuple[Split, str], Scores]:
    """Returns the predictions for each number of shots, each draw and each kind of features.

    Raises:
        DataError: a class has too few patients; see `draw_shots`.
    """
    return predict_draws(table, dataset, config, splits, draw_shots=draw_shots, fit_shots=fit_shots)


def predict_draws(
    table: EmbeddingTable,
    dataset: Dataset,
    config: ProbeConfig,
    splits: Sequence[Split],
    *,
    draw_shots: DrawShots,
    fit_shots: FitShots,
) -> dict[tuple[Split, str], Scores]:
    """Returns the predictions for each number of shots, each draw and each kind of features."""
    image_ids = {split: image_ids_of(dataset, split) for split in splits}
    rows = {split: table.rows_of(ids) for split, ids in image_ids.items()}
    predictions: dict[tuple[Split, str], Scores] = {}
    for num_shots in config.shots:
        for draw in range(config.num_draws):
            shots = draw_shots(dataset, num_shots, seed=config.shot_seed, draw=draw)
            ids = [dataset.records[i].image_id for i in shots.ravel()]
            for name in config.features:
                features = table.features(name)
                classifier = fit_shots(features[table.rows_of(ids)].reshape(*shots.shape, -1), l2=config.l2)
                system = draw_name(few_shot_name(num_shots, name), draw)
                for split in splits:
                    scores = classifier.scores(features[rows[split]])
                    predictions[split, system] = Scores(image_ids[split], scores)
    return predictions


class DrawShots(Protocol):
    """Draws shots from the train images."""

    def __call__(self, dataset: Dataset, num_shots: int, /, *, seed: int, draw: int) -> np.ndarray:
        """Returns positions in `dataset.records`, int64, of any shape."""
        ...


class FitShots(Protocol):
    """Fits a classifier on the embeddings of shots."""

    def __call__(self, shots: np.ndarray, /, *, l2: float | None) -> LinearClassifier:
        """Returns a classifier fitted on shots [..., D], whose other axes are those of the draw."""
        ...


def check_shots(dataset: Dataset, config: ProbeConfig) -> None:
    """Raises `DataError` if the largest number of shots cannot be drawn; see `draw_shots`."""
    for draw in range(config.num_draws):
        draw_shots(dataset, max(config.shots), seed=config.shot_seed, draw=draw)


def draw_shots(dataset: Dataset, num_shots: int, *, seed: int, draw: int) -> np.ndarray:
    """Returns the positions in `dataset.records` of k train images of each class, int64 [k, K].

    All images are of different patients. A draw of more shots starts with the draw of fewer shots.

    Raises:
        DataError: a class has too few patients.
    """
    train = dataset.indices("train")
    patients, classes = dataset.patients(train), dataset.class_indices(train)
    rng = counter_rng("shots", seed, draw)
    order = rng.permutation(np.unique(patients)).tolist()
    chances = rng.random(len(order))
    images: dict[tuple[str, int], list[int]] = {}
    for i, patient, k in zip(train.tolist(), patients.tolist(), classes.tolist(), strict=True):
        images.setdefault((patient, k), []).append(i)
    shots = np.empty((num_shots, len(dataset.classes)), np.int64)
    taken: set[str] = set()
    for shot, (k, name) in product(range(num_shots), enumerate(dataset.classes)):
        candidates = (
            (patient, of_patient[int(chance * len(of_patient))])
            for patient, chance in zip(order, chances, strict=True)
            if patient not in taken and (of_patient := images.get((patient, k)))
        )
        if (found := next(candidates, None)) is None:
            raise DataError(
                f"probe.shots={num_shots}: split 'train' has enough different patients for only {shot} shots "
                f"of class '{name}'; use {shot} or fewer"
            )
        patient, shots[shot, k] = found
        taken.add(patient)
    return shots


def fit_shots(shots: np.ndarray, *, l2: float | None = None) -> LinearClassifier:
    """Returns a classifier fitted on shots [k, K, D]. If `l2` is None, held-out shots choose the strength."""
    strength = l2 or choose_strength(shots)
    space, classes = _space(shots, shots[:0]), _classes(shots)
    solver = PathSolver(space.train, classes)
    solver.fit(strength)
    return space.to_classifier(*solver.solutions[strength])


def choose_strength(shots: np.ndarray) -> float:
    """Returns the λ that makes the held-out shots most likely, or the fixed λ for one shot."""
    num_shots = len(shots)
    if num_shots == 1:
        return ONE_SHOT_L2
    surprise = np.zeros(len(STRENGTHS))
    parts = np.arange(num_shots) % min(num_shots, MAX_PARTS)
    for part in np.unique(parts):
        kept, held = shots[parts != part], shots[parts == part]
        space = _space(kept, held)
        solver = PathSolver(space.train, _classes(kept))
        of_held = _classes(held)
        for place, strength in enumerate(STRENGTHS):
            solver.fit(strength)
            of_class = solver.scores(space.val)[np.arange(len(of_held)), of_held]
            surprise[place] -= np.log(np.maximum(of_class, np.finfo(np.float64).eps)).sum()
    return STRENGTHS[int(surprise.argmin())]


def _space(train: np.ndarray, val: np.ndarray) -> FeatureSpace:
    width = train.shape[-1]
    return FeatureSpace.spanned_by(train.reshape(-1, width), val.reshape(-1, width), is_common=True)


def _classes(shots: np.ndarray) -> np.ndarray:
    """Returns the class of each row of shots [k, K, D], reshaped to [k K, D]."""
    return np.tile(np.arange(shots.shape[1]), len(shots))
