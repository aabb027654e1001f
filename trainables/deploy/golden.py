"""Golden phantoms: 16 synthetic radiographs and their scores, to check a copy without patient data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trainables.data.phantom import SPLIT_INDICES, render
from trainables.data.transforms import fit
from trainables.deploy.engine import Engine
from trainables.deploy.systems import System

FILE = "golden.npz"
NUM_IMAGES = 16
FIRST_INDEX = 9 * SPLIT_INDICES
"""No data set has phantoms of this index, so no model was trained on them."""
IMAGES, SCORES = "images", "scores."


def write_golden(engine: Engine, systems: Mapping[str, System], folder: Path) -> None:
    """Writes the phantoms uint8 [16, 128, 128], and the raw scores float64 [16, K] of each system."""
    images = np.stack([render(0, FIRST_INDEX + i).image for i in range(NUM_IMAGES)])
    scores = {SCORES + name: values for name, values in _scores(engine, systems, images).items()}
    np.savez_compressed(folder / FILE, allow_pickle=False, **{IMAGES: images}, **scores)


def largest_difference(engine: Engine, systems: Mapping[str, System], folder: Path) -> float:
    """Returns the largest difference between a raw score of a golden phantom here and the stored one."""
    with np.load(folder / FILE, allow_pickle=False) as stored:
        now = _scores(engine, systems, stored[IMAGES])
        return max(float(np.abs(scores - stored[SCORES + name]).max()) for name, scores in now.items())


def _scores(engine: Engine, systems: Mapping[str, System], images: np.ndarray) -> dict[str, np.ndarray]:
    fitted = np.stack([fit(image, engine.preprocessing) for image in images])
    features = engine.features(fitted)
    return {name: system.scores(features) for name, system in systems.items()}
