"""`data check` and `data prepare`, on phantoms, on small folders and on the real X-rays."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import chests
from PIL import Image
from printed import without_progress

from orchestrator.cli.app import execute
from trainables.data.datasets import _load, _read

PHANTOMS = [
    f"--set=data.phantom.{name}={number}"
    for name, number in (("num_train", 30), ("num_val", 12), ("num_test", 12))
]
CLASSES = ("Normal", "COVID-19")
SPLITS = ("train", "train", "val", "test")
Checked = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A `manifest` data set of 48 films: 12 of each class in train, 6 in val and in test."""
    _load.cache_clear(), _read.cache_clear()  # data sets are read once a process
    root = tmp_path / "films"
    root.mkdir()
    with (root / "manifest.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "patient_id", "split"])
        for number, image in enumerate(chests(48)):
            name = f"film-{number:02d}.png"
            Image.fromarray(image).save(root / name)
            table.writerow([name, CLASSES[number % 2], f"secret-{number}", SPLITS[number // 2 % 4]])
    return root


@pytest.fixture
def checked(home: Path, capsys: pytest.CaptureFixture[str]) -> Checked:
    """Returns a function that runs `data check --json` and returns the exit status and the JSON."""

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        status = execute(["data", "check", "--json", *arguments])
        return status, json.loads(capsys.readouterr().out)

    return run


def on(root: Path) -> list[str]:
    return ["--set", "data.dataset=manifest", "--set", f"data.root={root}"]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def save(image: np.ndarray, path: Path) -> None:
    Image.fromarray(image).save(path)


def test_the_text_shows_what_was_understood(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["data", "check", *on(folder)]) == 0
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines()]
    assert ["Normal", "12", "(12)", "6", "(6)", "6", "(6)"] in rows
    assert ["COVID-19", "12", "(12)", "6", "(6)", "6", "(6)"] in rows
    assert "images: 60 to 60 px high, 60 to 60 px wide" in shown
    assert "0 groups of near duplicates across splits" in shown
    assert "0 images look like negatives of their class" in shown
    assert "secret" not in shown


def test_json_has_the_mean_of_every_file_and_no_patient(checked: Checked, folder: Path) -> None:
    status, found = checked(*on(folder))
    assert status == 0
    assert found["num_images"] == len(found["images"]) == 48
    assert found["counts"]["images"]["COVID-19"] == {"train": 12, "val": 6, "test": 6}
    for each in found["images"]:
        image = pixels(folder / each["file"])
        assert each["mean"] == pytest.approx(image.mean(), rel=1e-5)
        assert (each["height"], each["width"]) == image.shape
    assert "secret" not in json.dumps(found)


def test_the_page_lies_in_the_home_or_where_it_is_asked_for(
    home: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["data", "check", *on(folder)]) == 0
    (path,) = (home / "pages").iterdir()
    assert f"page: {path}" in capsys.readouterr().out
    assert path.stat().st_mode & 0o777 == 0o600
    assert "data:image/jpeg" in path.read_text()
    assert "secret" not in path.read_text()
    other = tmp_path / "other.html"
    assert execute(["data", "check", "--page", str(other), "--no-images", *on(folder)]) == 0
    assert "data:image" not in other.read_text()
    assert execute(["data", "check", "--page", str(folder / "manifest.csv"), *on(folder)]) == 2
    assert "was not written by --page" in capsys.readouterr().err


def test_an_inverted_image_is_named(
    checked: Checked, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(255 - pixels(folder / "film-09.png"), folder / "film-09.png")
    status, found = checked(*on(folder))
    assert status == 1
    assert found["inverted_images"] == ["film-09.png"]
    assert execute(["data", "check", *on(folder)]) == 1
    assert "'film-09.png' (train, COVID-19): border " in capsys.readouterr().out


def test_a_reencoded_copy_in_another_split_is_a_leak(checked: Checked, folder: Path) -> None:
    copied = np.clip(pixels(folder / "film-00.png") * 1.02 + 1, 0, 255).astype(np.uint8)
    save(copied, folder / "film-06.png")  # test = train
    status, found = checked(*on(folder))
    assert status == 1
    assert found["near_duplicates"] == 1
    assert found["copies"] == [
        {
            "files": ["film-00.png", "film-06.png"],
            "is_exact": False,
            "across_splits": ["film-00.png", "film-06.png"],
            "different_labels": None,
        }
    ]


def test_copies_inside_a_split_are_counted_and_those_of_two_labels_are_named(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = pixels(folder / "film-00.png").copy()
    noisy[0, 0] ^= 1
    save(noisy, folder / "film-01.png")  # a COVID-19 film of train = a Normal film of train
    assert execute(["data", "check", *on(folder)]) == 1
    shown = capsys.readouterr().out
    assert "2 images have a copy in their split" in shown
    assert "  'film-00.png' (train, Normal) and 'film-01.png' (train, COVID-19)" in shown


def test_unusable_files_are_written_and_listed_files_stay(
    home: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "film-03.png").write_bytes(b"")
    (folder / "film-05.png").write_bytes(b"text")
    listed = tmp_path / "bad.txt"
    assert execute(["data", "check", "--write-bad", str(listed), *on(folder)]) == 2
    said = without_progress(capsys.readouterr().err)
    assert f"--set data.exclude={listed}" in said
    paths = [line for line in listed.read_text().splitlines() if not line.startswith("#")]
    assert paths == ["film-03.png", "film-05.png"]
    assert "(0 bytes)" in listed.read_text()
    (folder / "film-03.png").write_bytes((folder / "film-04.png").read_bytes()[:300])
    (folder / "film-07.png").write_bytes(b"words")
    _load.cache_clear(), _read.cache_clear()
    assert execute(["data", "check", "--write-bad", str(listed), *on(folder)]) == 2
    paths = [line for line in listed.read_text().splitlines() if not line.startswith("#")]
    assert paths == ["film-03.png", "film-05.png", "film-07.png"]


def test_another_file_is_not_replaced_by_the_list(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = (folder / "manifest.csv").read_text()
    assert execute(["data", "check", "--write-bad", str(folder / "manifest.csv"), *on(folder)]) == 2
    assert "was not written by --write-bad" in capsys.readouterr().err
    assert (folder / "manifest.csv").read_text() == manifest
    assert execute(["data", "check", "--write-bad", str(folder / "no" / "bad.txt"), *on(folder)]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_data_is_prepared_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "prepare", "--json", *PHANTOMS, "--set", "encoder.image_size=32"]
    assert execute(arguments) == 0
    prepared = json.loads(capsys.readouterr().out)
    assert (prepared["num_images"], prepared["size"]) == (54, 32)
    written = Path(prepared["folder"], "manifest.json").stat().st_mtime_ns
    assert execute(arguments) == 0
    assert Path(prepared["folder"], "manifest.json").stat().st_mtime_ns == written


def test_data_check_finds_nothing_wrong_with_phantoms(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["data", "check", *PHANTOMS, "--set", "encoder.image_size=64"]) == 0
    assert "0 patients across splits" in capsys.readouterr().out


def test_data_check_shows_the_sources_of_the_real_x_rays(
    home: Path, xray3_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = ["--set", "data.dataset=covid_qu_ex", "--set", f"data.root={xray3_root}"]
    assert execute(["data", "check", "--json", *real, "--set", "encoder.image_size=64"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_images"] == 1116
    assert list(found["class_sources"]["covid-chestxray-dataset"]) == ["COVID-19"]
