"""Every mistake of a user: one message, exit status 2, nothing started."""

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
from PIL import Image
from printed import without_progress

from orchestrator.cli.app import execute
from trainables.data.datasets import _load, _read

PROJECT = Path(__file__).resolve().parents[3]
CLASSES = ("COVID-19", "Non-COVID", "Normal")
Refused = Callable[..., str]


@pytest.fixture
def refused(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Returns a function that runs a command line and returns its one message; nothing may have started."""

    def start_ray(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", start_ray)

    def run(*arguments: str) -> str:
        assert execute(arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        said = without_progress(printed.err)
        assert said.startswith("error: ")
        assert "Traceback" not in said
        assert "pydantic" not in said
        assert not list(home.glob("sweeps/*"))
        assert not list(home.glob("runs/*"))
        return said

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A `manifest` data set of 27 tiny images: three patients of each class in each split."""
    _load.cache_clear(), _read.cache_clear()  # data sets are read once a process
    root = tmp_path / "images"
    root.mkdir()
    rows = []
    numbers = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in CLASSES:
            for number in range(3):
                path = f"{split}-{name}-{number}.png"
                Image.fromarray(numbers.integers(0, 256, (32, 32), dtype=np.uint8)).save(root / path)
                rows.append({"path": path, "label": name, "patient_id": path, "split": split})
    write_manifest(root, rows)
    return root


def write_manifest(root: Path, rows: list[dict[str, str]]) -> None:
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def read_manifest(root: Path) -> list[dict[str, str]]:
    with (root / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def on(root: Path) -> list[str]:
    return ["--set", "data.dataset=manifest", "--set", f"data.root={root}", "--set", "encoder.image_size=32"]


def test_unknown_key(refused: Refused) -> None:
    assert "did you mean 'lora.rank'?" in refused("sweep", "--set", "lora.rnk=8")
    assert "did you mean 'lora.rank'?" in refused("run", "adapt", "--set", "lora.rnk=8")
    assert "did you mean 'lora.rank'?" in refused("data", "check", "--set", "lora.rnk=8")


def test_unknown_words_on_the_command_line(refused: Refused) -> None:
    assert "did you mean 'demo'?" in refused("sweep", "demmo")
    assert "did you mean 'adapt'?" in refused("run", "adpt")
    assert "'sweep'" in refused("swep")
    assert "--sett" in refused("sweep", "--sett", "lora.rank=8")
    assert "trials" in refused("sweep", "--trials", "0")


def test_range_that_cannot_hold(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(
        "parameters: {optim.learning_rate: {float: [1e-2, 1e-4], log: true}}"
    )
    message = refused("sweep", str(tmp_path / "space.yaml"))
    assert "parameters.optim.learning_rate.float: low 0.01 is not below high 0.0001" in message
    assert "0 must be at least 1" in refused("sweep", "--set", "lora.rank=0")


def test_missing_data_root(refused: Refused) -> None:
    assert "data.root: not set" in refused("sweep", "--set", "data.dataset=covid_qu_ex")
    message = refused("sweep", "--set", "data.dataset=covid_qu_ex", "--set", "data.root=/nowhere/at/all")
    assert "/nowhere/at/all does not exist" in message


def test_unknown_encoder(refused: Refused) -> None:
    assert "did you mean 'lite0-minilm'?" in refused("sweep", "--set", "encoder.name=lite0-minilmm")


def test_target_modules_that_match_nothing(refused: Refused) -> None:
    message = refused("sweep", "--set", "lora.target_modules=q_proj,v_proj")
    assert "lora.target_modules='q_proj,v_proj'" in message
    assert "pointwise" in message


def test_patient_in_two_splits(refused: Refused, folder: Path) -> None:
    rows = read_manifest(folder)
    rows[0]["patient_id"] = rows[-1]["patient_id"]
    write_manifest(folder, rows)
    message = refused("sweep", *on(folder))
    assert "is in test and train" in message
    assert rows[0]["path"] in message
    assert refused("sweep", "--plan", "--no-timing", *on(folder)) == message
    assert refused("data", "check", *on(folder)) == message


@pytest.mark.parametrize("content", [b"", b"no image at all", None], ids=["0-byte", "text", "cut short"])
def test_corrupt_image(refused: Refused, folder: Path, content: bytes | None) -> None:
    broken = folder / "val-Normal-1.png"
    broken.write_bytes(broken.read_bytes()[:200] if content is None else content)
    message = refused("sweep", *on(folder))
    assert "val-Normal-1.png" in message
    assert "manifest.csv line" in message
    assert refused("sweep", "--plan", "--no-timing", *on(folder)) == message
    assert refused("data", "check", *on(folder)) == message


def test_all_bad_images_are_listed_by_row(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = sorted(folder.glob("*.png"))
    for position, path in enumerate(bad):
        path.write_bytes(str(position).encode())
    assert execute(["data", "check", "--json", *on(folder)]) == 2
    printed = capsys.readouterr()
    listed = json.loads(printed.out)["bad_images"]
    assert {each["file"] for each in listed} == {path.name for path in bad}
    assert all("manifest.csv line" in each["reason"] for each in listed)
    assert "… and 7 more" in printed.err


def test_path_that_leaves_the_root(refused: Refused, folder: Path) -> None:
    rows = read_manifest(folder)
    rows[0]["path"] = "../../etc/passwd"
    write_manifest(folder, rows)
    assert "manifest.csv line 2" in refused("sweep", *on(folder))


def test_unwritable_home(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CLIP_ORCHESTRATOR_HOME", str(tmp_path / "file" / "home"))
    message = refused("sweep")
    assert "Set CLIP_ORCHESTRATOR_HOME" in message


def test_name_of_a_sweep_that_is_no_folder_name(refused: Refused) -> None:
    assert "sweep name '../away'" in refused("sweep", "--name", "../away")


def test_as_a_process_of_its_own(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "orchestrator", "sweep", "--set", "lora.rnk=8"],
        cwd=PROJECT,
        env=os.environ | {"CLIP_ORCHESTRATOR_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    assert (
        without_progress(answer.stderr) == "error: --set lora.rnk: no such field; did you mean 'lora.rank'?\n"
    )
    assert answer.stdout == ""
    assert not (tmp_path / "home").exists()


def test_a_storage_that_is_none(refused: Refused, home: Path, monkeypatch: pytest.MonkeyPatch):
    assert "unknown kind of storage; use a folder" in refused(
        "sweep", "demo", "--storage", "ftp://host/folder"
    )
    monkeypatch.setenv("CLIP_ORCHESTRATOR_STORAGE", "s3://key:secret@bucket/folder")
    said = refused("sweep", "demo")
    assert "must not contain credentials" in said
    assert "secret" not in said
    missing = refused("sweep", "--resume", "nothing", "--storage", str(home.with_name("kept")))
    assert f"no sweep 'nothing' on this machine or in {home.with_name('kept')} (has: none)" in missing
