"""A small folder of films in the COVID-QU-Ex layout, and a manifest over the same files."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data import datasets

CLASSES = ("COVID-19", "Non-COVID", "Normal")


def write_film(path: Path, *, seed: int, size=(40, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size=(size[1], size[0]), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def reread():
    """Makes the next `load_dataset` look at the files again, as a new process would."""

    def forget():
        datasets._read.cache_clear()
        datasets._load.cache_clear()
        datasets._masks.cache_clear()

    return forget


@pytest.fixture
def films(tmp_path) -> Path:
    """{Train,Val,Test}/<class>/images/<class>-<n>.png, 3 of each."""
    root = tmp_path / "films"
    for s, split in enumerate(("Train", "Val", "Test")):
        for k, name in enumerate(CLASSES):
            for i in range(3):
                seed = 100 * s + 10 * k + i
                write_film(root / split / name / "images" / f"{name}-{seed}.png", seed=seed)
    return root


@pytest.fixture
def write_manifest(tmp_path):
    """Writes manifest.csv beside 60 films film-00.png … of 30 patients and 2 classes; returns the root."""
    root = tmp_path / "own"
    for i in range(60):
        write_film(root / f"film-{i:02d}.png", seed=1000 + i)

    def write(rows=None, **columns):
        rows = rows or [
            {
                "path": f"film-{i:02d}.png",
                "label": "Normal" if i % 4 < 2 else "COVID-19",
                "patient_id": f"p{i // 2}",
            }
            for i in range(60)
        ]
        for name, values in columns.items():
            for row, value in zip(rows, values, strict=True):
                row[name] = value
        with (root / "manifest.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return root

    return write
