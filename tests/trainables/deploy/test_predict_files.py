"""Predictions of many files: one row each, whatever the files are, also after an interruption."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from trainables import load_model
from trainables.config import from_flat
from trainables.context import LocalContext
from trainables.data.phantom import render
from trainables.deploy.inputs import find_images
from trainables.deploy.predict_files import check_output, journal_of, predict_files
from trainables.deploy.predictor import Model
from trainables.errors import ConfigError, DataError
from trainables.trials.adapt import adapt

SMALL = {
    "data.phantom.num_train": 24,
    "data.phantom.num_val": 12,
    "data.phantom.num_test": 6,
    "adapt.method": "none",
    "encoder.image_size": 32,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Model:
    workdir = tmp_path_factory.mktemp("run")
    adapt(from_flat(SMALL), LocalContext(workdir=workdir, store=store))
    return load_model(workdir / "results" / "model", store=store)


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Forty phantoms, one of them in a subfolder, a text file named as an image, and a text file."""
    folder = tmp_path / "films"
    (folder / "more").mkdir(parents=True)
    for i in range(40):
        Image.fromarray(render(5, i).image).save(folder / ("more" if i == 39 else "") / f"{i:02}.png")
    (folder / "broken.png").write_text("no image")
    (folder / "notes.txt").write_text("not listed")
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def predicted(model: Model, inputs: list[str], output: Path, **options: object):
    given = {"system": "probe_joint", "is_raw": False, "progress": lambda num_done: None} | options
    return predict_files(model, find_images(inputs), output, **given)


def test_each_file_of_a_folder_gets_a_row_and_a_bad_one_its_reason(
    model: Model, films: Path, tmp_path: Path
) -> None:
    outcome = predicted(model, [str(films)], tmp_path / "out.csv")
    rows = rows_of(tmp_path / "out.csv")
    assert (outcome.num_files, outcome.num_bad, len(rows)) == (41, 1, 41)
    [bad] = [row for row in rows if row["problem"]]
    assert bad["file"].endswith("broken.png")
    assert "not a PNG" in bad["problem"]
    assert bad["label"] == ""
    first = model.predict([rows[0]["file"]], system="probe_joint")[0]
    for name, p in first.probabilities.items():
        assert float(rows[0][f"probability {name}"]) == pytest.approx(p, abs=1e-6)
    assert rows[0]["label"] == first.label
    assert not journal_of(tmp_path / "out.csv").exists()


def test_parquet_holds_the_same_rows_as_csv(model: Model, films: Path, tmp_path: Path) -> None:
    for name in ("out.csv", "out.parquet"):
        predicted(model, [str(films)], tmp_path / name, is_raw=True)
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    for row, said in zip(table, rows_of(tmp_path / "out.csv"), strict=True):
        assert {name: "" if value is None else str(value) for name, value in row.items()} == said


def test_a_resumed_run_misses_nothing_and_reads_nothing_twice(
    model: Model, films: Path, tmp_path: Path
) -> None:
    output, seen = tmp_path / "out.csv", []

    def stop(num_done: int) -> None:
        seen.append(num_done)
        if sum(seen) >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predicted(model, [str(films)], output, progress=stop)
    with journal_of(output).open("ab") as journal:
        journal.write(b'{"file": "cut in the midd')
    with pytest.raises(ConfigError, match="--resume"):
        check_output(output, resumes=False)
    check_output(output, resumes=True)
    with pytest.raises(ConfigError, match="another model, --system or --raw"):
        predicted(model, [str(films)], output, is_raw=True)
    seen.clear()
    outcome = predicted(model, [str(films)], output, progress=seen.append)
    assert outcome.num_files == 41
    assert seen == [32, 9]
    assert sorted(row["file"] for row in rows_of(output)) == sorted(i.name for i in find_images([str(films)]))
    with pytest.raises(ConfigError, match="exists already"):
        check_output(output, resumes=True)


def test_tables_patterns_and_files_name_images(films: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,age\nfilms/00.png,3\nfilms/01.png,4\n../out.png,5\n")
    listed = find_images([str(tmp_path / "list.csv")])
    assert [Path(image.name).name for image in listed] == ["00.png", "01.png", "out.png"]
    assert listed[0].checked() == (films / "00.png").resolve()
    with pytest.raises(ValueError, match="stay inside it"):
        listed[2].checked()
    assert len(find_images([str(films / "0*.png"), str(films / "00.png")])) == 10
    with pytest.raises(DataError, match="no such file or folder"):
        find_images([str(tmp_path / "none")])
    with pytest.raises(DataError, match="no image in it"):
        find_images([str(films / "*.dcm")])


def test_dicom_and_odd_images_get_a_prediction_or_a_reason(
    model: Model, dicom_mini_root: Path, odd_images_root: Path, tmp_path: Path
) -> None:
    outcome = predicted(model, [str(dicom_mini_root), str(odd_images_root)], tmp_path / "out.csv")
    rows = rows_of(tmp_path / "out.csv")
    assert len(rows) == outcome.num_files > 20
    assert all(bool(row["label"]) != bool(row["problem"]) for row in rows)
    assert sum(bool(row["label"]) for row in rows) > 10


def test_the_journal_names_the_model(model: Model, films: Path, tmp_path: Path) -> None:
    def stop(num_done: int) -> None:
        if num_done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predicted(model, [str(films)], tmp_path / "out.csv", progress=stop)
    first = json.loads(journal_of(tmp_path / "out.csv").read_text().splitlines()[0])
    assert first["classes"] == list(model.facts.classes)
    assert len(first["model"]) == 64
