"""Training on reports of one data set and scoring the labels of another."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from report_table import write_report_table

from trainables.config import DataConfig, TrialConfig, from_flat
from trainables.context import LocalContext
from trainables.data.adapt_on import check_trained_on
from trainables.data.datasets import load_dataset, training_set, with_masks
from trainables.errors import ConfigError, DataError
from trainables.training.trial_setup import set_up_trial
from trainables.trials.adapt import adapt

SMALL = {
    "data.dataset": "phantom",
    "data.phantom.num_train": 24,
    "data.phantom.num_val": 12,
    "data.phantom.num_test": 12,
    "data.captions": "report",
    "data.num_views": 1,
    "data.adapt_on.dataset": "manifest",
    "encoder.image_size": 32,
    "loss.kind": "clip",
    "num_epochs": 1,
    "global_batch_size": 10,
}


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """Sixty images with reports, and neither labels nor splits."""
    root = tmp_path / "reports"
    root.mkdir()
    write_report_table(root, lambda i: f"FINDINGS: The sign {i % 8} is seen.")
    table = root / "manifest.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "patient_id", "report"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return root


def config(root: Path, **changes: object) -> TrialConfig:
    return from_flat(SMALL | {"data.adapt_on.root": str(root)} | changes)


def test_the_adapter_trains_on_one_set_and_is_scored_on_the_other(
    reports: Path, store: Path, tmp_path: Path
) -> None:
    trial = config(reports)
    setup = set_up_trial(trial, LocalContext(workdir=tmp_path, store=store))
    assert len(setup.training.dataset.indices("train")) == 60  # no split is given, so all images train
    assert len(setup.dataset.indices("train")) == 24
    metrics = adapt(trial, LocalContext(workdir=tmp_path, store=store))
    assert 0 <= metrics["val/probe_joint/accuracy"] <= 1
    assert "train/captions/cut_fraction" in metrics
    alone = from_flat(
        {key: value for key, value in SMALL.items() if "adapt_on" not in key} | {"data.captions": "finding"}
    )
    other = set_up_trial(alone, LocalContext(workdir=tmp_path, store=store))
    assert setup.adapter_folder != other.adapter_folder
    assert other.training.dataset is other.dataset


def test_the_other_set_is_part_of_the_identity_and_is_told(reports: Path, tmp_path: Path) -> None:
    data = config(reports).data_to_read
    dataset = load_dataset(data)
    told = "; ".join(dataset.notes)
    assert "adapted on 60 images of manifest; " in told
    assert "captions from reports: 60 of 60 train images" in told
    changed = tmp_path / "changed"
    shutil.copytree(reports, changed)
    table = changed / "manifest.csv"
    table.write_text(table.read_text().replace("sign 7 is", "sign 7 was"))
    keys = {
        with_masks(dataset.fingerprint, of)
        for of in (
            data,
            config(changed).data_to_read,
            config(reports, **{"adapt.method": "none"}).data_to_read,
        )
    }
    assert len(keys) == 3


def test_an_image_of_both_sets_is_a_leak(reports: Path, tmp_path: Path) -> None:
    scored = tmp_path / "scored"
    scored.mkdir()
    write_report_table(scored, lambda i: "")  # the same images
    data = {"dataset": "manifest", "root": scored, "adapt_on": {"dataset": "manifest", "root": reports}}
    with pytest.raises(DataError, match=r"1\.png of manifest is 1\.png of manifest"):
        load_dataset(DataConfig.model_validate(data))
    held_out = "".join(f"{i}.png\n" for i in range(60) if i % 3)
    (tmp_path / "exclude.txt").write_text(held_out)
    data["adapt_on"] |= {"exclude": tmp_path / "exclude.txt"}
    found = training_set(DataConfig.model_validate(data | {"captions": "report"}))
    assert len(found.indices("train")) == 20


def test_a_patient_of_both_splits_is_a_leak_if_patients_are_comparable(reports: Path, tmp_path: Path) -> None:
    rows = (reports / "manifest.csv").read_text().splitlines()
    held_out = [f"{row},{('train', 'val', 'test')[i % 3]},{'ab'[i % 2]}" for i, row in enumerate(rows[1:31])]
    (reports / "scored.csv").write_text("\n".join([f"{rows[0]},split,label", *held_out]))
    others = [row.replace(",p3", ",p1") for row in rows[32:]]
    (reports / "others.csv").write_text("\n".join([rows[0], *others]))
    data = {"dataset": "manifest", "root": reports, "manifest": "scored.csv"}
    other = {"dataset": "manifest", "root": reports, "manifest": "others.csv"}
    with pytest.raises(DataError, match="patient 'p1"):
        training_set(DataConfig.model_validate(data | {"adapt_on": other}))


def test_a_set_without_labels_is_not_scored_and_trains_on_texts_alone(reports: Path) -> None:
    with pytest.raises(DataError, match="no image has a label"):
        load_dataset(DataConfig(dataset="manifest", root=reports))
    trained = training_set(config(reports).data)
    assert np.unique(trained.label_matrix(trained.indices("train"))).tolist() == [-1]
    check_trained_on(trained, config(reports))
    check_trained_on(trained, config(reports, **{"loss.kind": "siglip", "loss.positives": "caption"}))
    for changes in ({"loss.kind": "siglip"}, {"data.captions": "finding"}, {"loss.kind": "class_prompt"}):
        with pytest.raises(ConfigError, match="manifest has no labels"):
            check_trained_on(trained, config(reports, **changes))
