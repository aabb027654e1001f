"""A lab's own radiographs, in the forms that labs have, are turned into a leaderboard by the command line."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_dicom
from PIL import Image
from sweep_process import plain_environment

TINY = ("encoder.image_size=32", "num_epochs=1", "data.num_views=1", "search.num_trials=1", "search.seeds=1")
pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]


def film(rng: np.random.Generator, is_ill: bool) -> np.ndarray:
    """Grey noise of 48 × 40 pixels; the ill ones have a bright patch."""
    pixels = rng.integers(60, 160, size=(48, 40)).astype(np.uint8)
    if is_ill:
        pixels[8:20, 6:18] += 60
    return pixels


def write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def folder_of_unknown_classes(root: Path) -> list[str]:
    rng = np.random.default_rng(0)
    for name in ("Silicosis", "Unremarkable"):
        for i in range(20):
            write_png(root / name / f"{name} ({i}).png", film(rng, name == "Silicosis"))
    return ["data.dataset=image_folder"]


def dicom_files_with_a_semicolon_table(root: Path) -> list[str]:
    rng, lines = np.random.default_rng(1), ["Image;Diagnosis"]
    (root / "dcm").mkdir()
    for i in range(40):
        pixels = film(rng, i % 4 < 2).astype(np.uint16) * 16
        write_dicom(root / "dcm" / f"{i:03d}.dcm", pixels, PatientID=f"ID-{i // 2}", PatientName="X^Y")
        lines.append(f"dcm/{i:03d}.dcm;{'Tuberkulose' if i % 4 < 2 else 'unauffällig'}")
    (root / "liste.csv").write_text("\r\n".join(lines), encoding="cp1252")
    return ["data.dataset=manifest", "data.manifest=liste.csv"]


def table_of_pandas_with_float_ids(root: Path) -> list[str]:
    rng = np.random.default_rng(2)
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "filename", "label", "patient_id", "split"])
        for i in range(48):
            split = ("train", "train", "valid", "test")[i % 12 // 3]
            write_png(root / f"{i}.png", film(rng, i % 2 == 0))
            writer.writerow([i, f"{i}.png", ["sick", "well"][i % 2], float(1000 + i), split])
    return ["data.dataset=manifest"]


@pytest.mark.parametrize(
    "write",
    [folder_of_unknown_classes, dicom_files_with_a_semicolon_table, table_of_pandas_with_float_ids],
    ids=lambda write: write.__name__,
)
def test_a_labs_own_images_come_to_a_board(write: Callable[[Path], list[str]], tmp_path: Path) -> None:
    root = tmp_path / "own"
    root.mkdir()
    settings = [*write(root), f"data.root={root}", *TINY]
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "sweep", "lora", "--name", "own", "--json"]
        + [part for setting in settings for part in ("--set", setting)],
        env=plain_environment() | {"CLIP_ORCHESTRATOR_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        cwd=os.fspath(Path(__file__).parents[3]),
    )
    assert done.returncode == 0, done.stderr
    board = json.loads(done.stdout)
    assert board["rows"]
    assert all(0 <= row["objective"]["value"] <= 1 for row in board["rows"])
    assert "words made from the labels" in board["data_notes"]
    assert board["by_image"] == (write is folder_of_unknown_classes)
    ledger = "".join(path.read_text() for path in (tmp_path / "home" / "sweeps").rglob("*.jsonl"))
    assert "ID-1" not in ledger
    assert "X^Y" not in ledger
