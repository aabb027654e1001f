"""Model folders of real small trials: what leaves a trial gives the scores that were recorded."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import trainables
from trainables import load_model
from trainables.artifacts import file_sha256
from trainables.config import TrialConfig, from_flat
from trainables.context import LocalContext
from trainables.data.datasets import load_dataset
from trainables.deploy import leave_model
from trainables.errors import ConfigError, DataError
from trainables.scoring.metric_names import is_few_shot
from trainables.scoring.predictions import read_predictions
from trainables.trials.adapt import adapt

SMALL = {
    "data.phantom.num_train": 46,
    "data.phantom.num_val": 24,
    "data.phantom.num_test": 40,
    "data.num_views": 1,
    "encoder.image_size": 32,
    "baseline.image_size": 32,
    "baseline.from_scratch": True,
    "global_batch_size": 16,
    "num_epochs": 1,
    "zero_shot.prompts": ("training", "unseen", "class_name"),
    "execution.evaluate_every_epochs": 0,
}
METHODS = ("none", "projection", "lora+projection", "full", "baseline")
WORKER = Path(__file__).with_name("predict_worker.py")


def trial(method: str, dataset: str, **changes: object) -> TrialConfig:
    more = {key.replace("__", "."): value for key, value in changes.items()}
    return from_flat(SMALL | {"data.dataset": dataset, "adapt.method": method} | more)


def leave(config: TrialConfig, workdir: Path, store: Path) -> Path:
    workdir.mkdir(parents=True)
    adapt(config, LocalContext(workdir=workdir, store=store))
    folder = workdir / "results" / "model"
    assert folder.is_dir(), (workdir / "results" / leave_model.PROBLEM).read_text()
    return folder


def test_images(config: TrialConfig) -> np.ndarray:
    dataset = load_dataset(config.data)
    return np.stack([dataset.decode(dataset.records[i]) for i in dataset.indices("test")])


test_images.__test__ = False  # type: ignore[attr-defined]


def recorded(folder: Path) -> dict[str, np.ndarray]:
    predictions = read_predictions(folder.parent / "predictions.parquet", split="test")
    return {
        system: scores.scores
        for (_, system), scores in predictions.items()
        if not is_few_shot(system) and not system.startswith("control")
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    return leave(trial("none", "phantom"), tmp_path_factory.mktemp("trials") / "run", store)


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may damage."""
    return Path(shutil.copytree(model, tmp_path / "model"))


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["phantom", "phantom_findings"])
def test_a_fresh_process_repeats_the_recorded_test_scores(dataset: str, tmp_path: Path, store: Path) -> None:
    folders = [leave(trial(method, dataset), tmp_path / method, store) for method in METHODS]
    np.save(tmp_path / "images.npy", test_images(trial("none", dataset)))
    command = [sys.executable, WORKER, store, tmp_path / "images.npy", *folders]
    subprocess.run(command, check=True, cwd=Path(trainables.__file__).parent.parent)
    for folder in folders:
        again, expected = np.load(folder.parent / "again.npz"), recorded(folder)
        assert expected
        assert expected.keys() == set(again.files) - {"golden"}
        for system, scores in expected.items():
            np.testing.assert_allclose(again[system], scores, rtol=0, atol=1e-5, err_msg=f"{folder} {system}")
        assert again["golden"] < 1e-5


def test_a_model_repeats_the_recorded_test_scores(model: Path, store: Path) -> None:
    loaded = load_model(model, store=store)
    images, expected = test_images(loaded.facts.config), recorded(model)
    assert expected.keys() == loaded.systems.keys()
    for system, scores in expected.items():
        found = [list(each.raw_probabilities.values()) for each in loaded.predict(images, system=system)]
        np.testing.assert_allclose(found, scores, rtol=0, atol=1e-5)
    assert loaded.check() < 1e-6


def test_files_arrays_and_pillow_images_give_one_prediction(model: Path, store: Path, tmp_path: Path) -> None:
    loaded = load_model(model, store=store)
    pixels = test_images(loaded.facts.config)[0]
    Image.fromarray(pixels).save(tmp_path / "film.png")
    given = [tmp_path / "film.png", str(tmp_path / "film.png"), pixels, Image.fromarray(pixels)]
    first, *others = (loaded.predict([image])[0] for image in given)
    assert others == [first] * 3
    assert sum(first.probabilities.values()) == pytest.approx(1)
    assert first.label == max(first.probabilities, key=lambda name: first.probabilities[name])
    assert first.unlike_training in (True, False)


def test_noise_is_unlike_the_training_images_and_most_test_images_are_not(model: Path, store: Path) -> None:
    loaded = load_model(model, store=store)
    noise = np.random.default_rng(0).integers(0, 256, (20, 32, 32), dtype=np.uint8)
    assert np.mean([each.unlike_training for each in loaded.predict(noise)]) >= 0.8
    of_test = [each.unlike_training for each in loaded.predict(test_images(loaded.facts.config))]
    assert np.mean(of_test) <= 0.25  # with 24 val images, the 99th percentile is almost their maximum


def test_findings_are_those_at_their_threshold(tmp_path: Path, store: Path) -> None:
    config = trial("none", "phantom_findings")
    folder = leave(config, tmp_path / "run", store)
    loaded = load_model(folder, store=store)
    system = loaded.facts.default_system
    limits = json.loads((folder / "thresholds.json").read_text())[system]["youden"]
    for each in loaded.predict(test_images(config)[:8]):
        over = [
            name for name, p in each.probabilities.items() if limits[name] is not None and p >= limits[name]
        ]
        assert each.present == (tuple(name for name in over if name != "No Finding") or ("No Finding",))


def test_a_model_folder_has_no_path_no_patient_and_no_pickle(model: Path, tmp_path: Path) -> None:
    assert {path.suffix for path in model.rglob("*")} <= {".json", ".safetensors", ".npz", ".md"}
    for path in model.rglob("*"):
        content = path.read_bytes()
        assert b"phantom-0-" not in content
        assert str(tmp_path.parent).encode() not in content
    golden = np.load(model / "golden.npz", allow_pickle=False)
    assert golden["images"].shape == (16, 128, 128)
    assert not any("few_shot" in name for name in golden.files)
    assert "research only" in (model / "README.md").read_text().lower()


def change_a_byte(folder: Path) -> None:
    path = folder / "probe_joint.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def rewrite(folder: Path, change) -> None:
    """Changes `model.json`, and its hash in the manifest too, as a careful forger would."""
    path, manifest = folder / "model.json", folder / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    hashes = json.loads(manifest.read_text())
    hashes["files"]["model.json"] = file_sha256(path)
    manifest.write_text(json.dumps(hashes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_a_byte, "probe_joint.safetensors: this file is missing or has changed"),
        (lambda folder: (folder / "thresholds.json").unlink(), "thresholds.json: this file is missing"),
        (lambda folder: (folder / "model.json").unlink(), "holds no model"),
        (
            lambda folder: rewrite(folder, lambda v: v["preprocessing"].update(crop="none")),
            "other preprocessing",
        ),
        (lambda folder: rewrite(folder, lambda v: v["classes"].reverse()), "has the classes COVID-19"),
        (lambda folder: rewrite(folder, lambda v: v.update(fingerprint="0" * 16)), "other weights"),
        (lambda folder: rewrite(folder, lambda v: v.update(schema_version=2)), "schema version 2"),
        (lambda folder: rewrite(folder, lambda v: v.pop("task")), "not a model of this program"),
    ],
)
def test_a_changed_model_is_refused(damage, message: str, copy: Path, store: Path) -> None:
    damage(copy)
    with pytest.raises(DataError, match=message):
        load_model(copy, store=store)


def test_wrong_input_is_refused_with_a_sentence(model: Path, store: Path, tmp_path: Path) -> None:
    loaded = load_model(model, store=store)
    with pytest.raises(ConfigError, match="did you mean 'probe_joint'"):
        loaded.predict([], system="probe_jont")
    with pytest.raises(ConfigError, match="takes a list"):
        loaded.predict("film.png")
    with pytest.raises(DataError, match="float64"):
        loaded.predict([np.zeros((8, 8))])
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text\.png: not a PNG"):
        loaded.predict([tmp_path / "text.png"])


def test_a_trial_without_a_model_keeps_its_scores(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(leave_model, "write_model", fail)
    metrics = adapt(trial("none", "phantom"), LocalContext(workdir=tmp_path, store=store))
    assert "val/probe_joint/accuracy" in metrics
    assert (tmp_path / "results" / "predictions.parquet").is_file()
    assert "no space left" in (tmp_path / "results" / leave_model.PROBLEM).read_text()
    assert not (tmp_path / "results" / "model").exists()


def test_importing_the_package_loads_no_torch() -> None:
    done = "import sys, trainables; trainables.load_model; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", done], check=False, cwd=WORKER.parents[3]).returncode == 0
