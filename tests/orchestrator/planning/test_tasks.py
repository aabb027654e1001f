"""The task of a sweep: classes, or several findings per image."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.driver.executor import describe
from orchestrator.planning.data_notes import data_notes, datasets_of
from orchestrator.planning.plan import make_plan
from orchestrator.planning.tasks import check_metrics, findings_of, task_of
from orchestrator.search.space import SearchSpace
from orchestrator.search.space_file import read_space
from trainables.config import DataConfig
from trainables.data.datasets import load_dataset
from trainables.data.records import NO_FINDING, Dataset, ImageRecord
from trainables.errors import ConfigError

LABELS = ("Edema|Effusion", "Edema", "Effusion", NO_FINDING)


@pytest.fixture
def manifest(tmp_path: Path) -> SearchSpace:
    """A space on 48 images of 48 patients, with findings joined by bars."""
    noise = np.random.default_rng(0)
    rows: list[dict[str, str]] = []
    for i in range(48):
        Image.fromarray(noise.integers(60, 160, (32, 32)).astype(np.uint8)).save(tmp_path / f"{i}.png")
        split = "test" if i >= 40 else "val" if i >= 28 else "train"
        row = {"image": f"{i}.png", "label": LABELS[i % 4], "patient_id": f"p{i}", "split": split}
        rows.append(row)
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    data = {"data.dataset": "manifest", "data.root": str(tmp_path), "data.manifest": "table.csv"}
    return read_space({"name": "findings", "fixed": data | {"encoder.image_size": 32}})


def classes() -> Dataset:
    return load_dataset(DataConfig())


def findings(*labels: tuple[int, int], name: str = "nih") -> Dataset:
    """A data set with an image of train and one of val for each of `labels`."""
    names = ("Edema", "Hernia", NO_FINDING)
    named = [dict(zip(names, (*of, int(not any(of))), strict=True)) for of in labels]
    records = tuple(
        ImageRecord(f"{split} {i}", f"patient {split} {i}", split, of_image)
        for split in ("train", "val")
        for i, of_image in enumerate(named)
    )
    return replace(classes(), name=name, classes=names, records=records, task="multilabel")


def test_data_sets_of_two_tasks_are_refused():
    with pytest.raises(ConfigError, match=r"'phantom' has one class per image.*'nih' has several findings"):
        task_of([classes(), findings((1, 0))])
    assert task_of([classes(), classes()]) == "multiclass"
    assert task_of([findings((1, 0))]) == "multilabel"


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"objective": "val/probe_joint/accuracy"}, "objective: 'accuracy' is not measured"),
        ({"constraints": {"val/probe_joint/macro_f1": {"at_least": 0.1}}}, "constraints.*macro_f1"),
    ],
)
def test_metrics_of_classes_are_refused_for_findings(fields: dict[str, object], where: str):
    space = read_space({"name": "s", **fields})
    check_metrics(space, "multiclass")
    with pytest.raises(ConfigError, match=f"{where}.*measured are macro_auroc, macro_ap"):
        check_metrics(space, "multilabel")


def test_average_precision_ranks_findings_but_not_classes():
    space = read_space({"name": "s", "objective": "val/probe_joint/macro_ap"})
    check_metrics(space, "multilabel")
    with pytest.raises(ConfigError, match="one class per image"):
        check_metrics(space, "multiclass")


def test_notes_tell_unknown_labels_and_findings_that_are_not_defined():
    dataset = findings((1, 1), (0, -1), (1, 1), (0, 1))
    assert data_notes([dataset]) == (
        "unknown labels: 12.5% of those of train and val; they count nowhere",
        "train has no positive or no negative image of Hernia; it cannot be learned",
        "val has no positive or no negative image of Hernia; averages on val leave it out",
    )
    assert data_notes([findings((1, 0), (0, 1))]) == ()
    folds = [dataset, findings((1, 0), (0, 1))]
    assert "train has no positive or no negative image of Hernia in 1 of 2 folds; it cannot be learned" in (
        data_notes(folds)
    )


def test_findings_of_several_sets_are_each_named_once():
    other = replace(findings((1, 0)), classes=("Hernia", "Mass", NO_FINDING), records=())
    assert findings_of([findings((1, 0)), other, classes()]) == ["Edema", "Hernia", "Mass"]


def test_plan_and_ledger_know_the_task(manifest: SearchSpace):
    plan = make_plan(manifest)
    assert "Edema 20, Effusion 20, No Finding 10" in plan.data
    started = describe("findings", manifest)
    assert (started.task, started.findings) == ("multilabel", ["Edema", "Effusion"])
    assert {dataset.task for dataset in datasets_of(manifest)} == {"multilabel"}


def test_a_plan_refuses_an_objective_of_the_other_task(manifest: SearchSpace):
    with pytest.raises(ConfigError, match="'accuracy' is not measured"):
        make_plan(manifest.model_copy(update={"objective": "val/probe_joint/accuracy"}))
