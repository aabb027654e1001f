"""`predict` on the command line: a sweep's row, a folder, images that cannot be read."""

import csv
import shutil
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.cli.app import execute
from orchestrator.results.find_model import find_model
from orchestrator.storage.events import SweepStarted, TrialFinished, TrialPlaced
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.paths import sweep_folder
from trainables.config import from_flat, to_flat
from trainables.context import LocalContext
from trainables.data.phantom import render
from trainables.errors import ConfigError, DataError
from trainables.trials.adapt import adapt

SMALL = {
    "data.phantom.num_train": 24,
    "data.phantom.num_val": 24,
    "data.phantom.num_test": 6,
    "adapt.method": "baseline",
    "baseline.from_scratch": True,
    "baseline.image_size": 32,
    "num_epochs": 1,
}
SCORES = {0: 0.9, 1: 0.6, 2: 0.7}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    adapt(from_flat(SMALL), LocalContext(workdir=workdir, store=tmp_path_factory.mktemp("store")))
    return workdir / "results" / "model"


@pytest.fixture
def sweep(trained: Path, home: Path) -> Path:
    """A sweep of one arm with three seeds, of which the third has the median score."""
    folder = sweep_folder("toy")
    with Ledger(folder) as ledger:
        objective, own = "val/probe_joint/macro_auroc", "val/baseline_from_scratch/macro_auroc"
        ledger.append(
            SweepStarted(name="toy", experiment="phantom/toy", objective=objective, seed=0,
                space={"search": {"searcher": "grid"}}, space_fingerprint="5face", git={}, versions={},
                hardware={}, data_fingerprint="da7a", encoder_fingerprint="e4c0",
            )
        )  # fmt: skip
        for seed, score in SCORES.items():
            key = f"trial-{seed}"
            config = to_flat(from_flat(SMALL | {"seed": seed}))
            ledger.append(TrialPlaced(trial_key=key, arm_key="arm", name="small", config=config, attempt=1))
            shutil.copytree(trained, folder / "trials" / key / "results" / "model")
            ledger.append(
                TrialFinished(trial_key=key, attempt=1, metrics={own: score}, seconds=1.0,
                    workdir=f"trials/{key}", results={}, stopped_early=False,
                )
            )  # fmt: skip
    return folder


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(render(5, i).image).save(folder / f"{i}.png")
    return folder


def test_a_sweep_predicts_with_its_first_row(sweep: Path, films: Path, tmp_path: Path) -> None:
    assert execute(["predict", "toy", str(films), "--output", str(tmp_path / "out.csv")]) == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file"]).name for row in rows] == ["0.png", "1.png", "2.png"]
    assert all(row["label"] in ("COVID-19", "Non-COVID", "Normal") for row in rows)


def test_an_arm_of_several_seeds_gives_the_seed_with_the_median_score(sweep: Path) -> None:
    found = find_model("toy/1")
    assert found.folder == sweep / "trials" / "trial-2" / "results" / "model"
    assert found.system == "baseline_from_scratch"


def test_images_that_cannot_be_read_give_rows_and_exit_status_3(
    trained: Path, films: Path, tmp_path: Path
) -> None:
    (films / "bad.png").write_text("no image")
    assert execute(["predict", str(trained), str(films), "--output", str(tmp_path / "out.parquet")]) == 3


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("toy/7", ConfigError, "has 1 rows"),
        ("tyo", DataError, "did you mean 'toy'"),
        ("toy/best", DataError, "holds no model"),
    ],
)
def test_an_unknown_model_is_refused(name: str, error: type, message: str, sweep: Path) -> None:
    with pytest.raises(error, match=message):
        find_model(name)


def test_a_trial_without_a_model_says_why(sweep: Path) -> None:
    results = sweep / "trials" / "trial-2" / "results"
    shutil.rmtree(results / "model")
    (results / "no-model.txt").write_text("OSError: disk full\n")
    with pytest.raises(DataError, match=r"left no model \(OSError: disk full\)"):
        find_model("toy")


def test_mistakes_give_one_message_and_exit_status_2(
    trained: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["predict", str(trained), str(films)]
    for more, message in [
        (["--output", "out.txt"], "must end with .csv or .parquet"),
        (["--output", str(tmp_path / "none" / "out.csv")], "does not exist"),
        (["--output", str(tmp_path / "out.csv"), "--system", "baselin"], "the model does not have it"),
        (["--output", str(tmp_path / "out.csv"), "--device", "tpu"], "use cpu or cuda"),
    ]:
        assert execute([*given, *more]) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
