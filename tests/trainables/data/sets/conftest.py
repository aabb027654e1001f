"""Writes public data sets in their true form: tiny images and tables in the published folders."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.config import DataConfig
from trainables.data.datasets import load_dataset


def write_image(path: Path, seed: int) -> None:
    """Writes noise as PNG or JPEG, by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size=(20, 24), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def release(tmp_path):
    """Writes images, all different, and texts below a folder of the release; returns the root."""
    root = tmp_path / "release"

    def write(images: Iterable[str], texts: dict[str, str] | None = None) -> Path:
        for seed, name in enumerate(images):
            write_image(root / name, seed)
        for name, text in (texts or {}).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, newline="")
        return root

    return write


@pytest.fixture
def read():
    """Reads a data set by name, with the labels of test."""

    def read(dataset: str, root: Path, **options):
        return load_dataset(DataConfig(dataset=dataset, root=root, **options), with_test_labels=True)

    return read


@pytest.fixture
def pixels():
    """Makes the noise of an image, uint8 [20, 24]."""
    return lambda seed: np.random.default_rng(seed).integers(0, 255, size=(20, 24), dtype=np.uint8)
