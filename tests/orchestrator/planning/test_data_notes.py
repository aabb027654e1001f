"""Notes about the data of a sweep, from its data sets to the plan and to the ledger."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.driver.executor import describe
from orchestrator.planning.data_notes import data_notes, datasets_of, is_by_image, plan_notes
from orchestrator.planning.plan import make_plan
from orchestrator.search.space import SearchSpace
from orchestrator.search.space_file import read_space
from trainables.config import DataConfig
from trainables.data.datasets import load_dataset
from trainables.data.records import Dataset

SMALL = {"data.phantom.num_train": 12, "data.phantom.num_val": 6, "data.phantom.num_test": 6}
SPACE = read_space({"name": "small", "fixed": SMALL | {"encoder.image_size": 32}})


def noted(**fields: Any) -> Dataset:
    return replace(load_dataset(DataConfig()), **fields)


def test_folds_of_one_data_set_say_a_note_once():
    folds = [noted(notes=("words made from the labels",), fingerprint=str(fold)) for fold in range(3)]
    assert data_notes(folds) == ("words made from the labels",)


def test_with_several_data_sets_a_note_names_its_own():
    two = [noted(name="a", notes=("2 excluded", "1 copy")), noted(name="b", notes=("2 excluded",)), noted()]
    assert data_notes(two) == ("a: 2 excluded", "a: 1 copy", "b: 2 excluded")


def test_one_data_set_without_patients_makes_the_sweep_one_by_image():
    assert not is_by_image([noted(), noted()])
    assert is_by_image([noted(), noted(has_patients=False)])


def test_a_plan_says_the_notes_and_that_intervals_are_by_image():
    assert plan_notes([noted()]) == ()
    (note, by_image) = plan_notes([noted(notes=("2 excluded",), has_patients=False)])
    assert note == "2 excluded"
    assert by_image == "intervals are by image, not by patient: the data set has no patient ids"


@pytest.fixture
def folder(tmp_path: Path) -> SearchSpace:
    """A space on images in one folder per class: no patients, no words of their own."""
    noise = np.random.default_rng(0)
    for name in ("Silicosis", "Unremarkable"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            pixels = noise.integers(60, 160, size=(48, 40)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    data = {"data.dataset": "image_folder", "data.root": str(tmp_path / "images")}
    return read_space({"name": "small", "fixed": data | {"encoder.image_size": 32}})


def test_plan_and_ledger_take_the_notes_of_the_data(folder: SearchSpace):
    plan = make_plan(folder)
    shown = dict(plan.lines())
    notes = list(plan.notes)
    assert shown["notes"].splitlines() == notes == list(plan.to_dict()["notes"])
    assert sum("words made from the labels" in note for note in notes) == 1
    assert notes[-1] == "intervals are by image, not by patient: the data set has no patient ids"
    assert "patients" not in shown["data"]
    started = describe("small", folder)
    assert (started.data_notes, started.by_image) == (notes[:-1], True)


def test_a_file_of_words_replaces_those_made_from_the_labels(folder: SearchSpace, tmp_path: Path):
    said = {
        name: {"name": name.lower(), "findings": [f"signs of {name.lower()} in both lungs"],
               "unseen": [f"a picture that suggests {name.lower()}"],
               "pairs": [[f"shows {name.lower()}", f"shows other things than {name.lower()}"]]}
        for name in ("Silicosis", "Unremarkable")
    }  # fmt: skip
    (tmp_path / "words.yaml").write_text(json.dumps({"classes": said}))
    own = folder.model_copy(update={"fixed": {**folder.fixed, "data.prompts": str(tmp_path / "words.yaml")}})
    assert not any("words made from the labels" in note for note in make_plan(own).notes)


def test_a_data_set_without_notes_leaves_plan_and_ledger_as_they_were():
    assert "notes" not in dict(make_plan(SPACE).lines())
    assert "patients" in make_plan(SPACE).data
    started = describe("small", SPACE)
    assert (started.data_notes, started.by_image) == ([], False)
    assert len(datasets_of(SPACE)) == 1
