"""A fresh process that loads models and predicts: raw scores of each system, in an `.npz` file."""

import sys
from pathlib import Path

import numpy as np

from trainables import load_model

store, images, *folders = map(Path, sys.argv[1:])
for folder in folders:
    model = load_model(folder, store=store)
    found = {
        name: [list(p.raw_probabilities.values()) for p in model.predict(np.load(images), system=name)]
        for name in model.systems
    }
    np.savez(folder.parent / "again.npz", **found, golden=model.check())
