"""A small data set with reports: sixty images of grey noise and a table."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def write_report_table(root: Path, report: Callable[[int], str]) -> None:
    """Writes 0.png … 59.png of sixty patients, in two classes and the three splits in turn, with reports."""
    rng = np.random.default_rng(0)
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "patient_id", "split", "report"])
        for i in range(60):
            Image.fromarray(rng.integers(0, 255, (20, 20)).astype(np.uint8)).save(root / f"{i}.png")
            split, label = ("train", "val", "test")[i % 3], ("well", "ill")[i % 2]
            writer.writerow([f"{i}.png", label, f"p{i}", split, report(i)])
