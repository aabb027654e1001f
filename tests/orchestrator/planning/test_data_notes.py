"""Notes about the data of a sweep, from its data sets to the plan and to the ledger."""

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.driver.executor import describe
from orchestrator.planning import data_notes as collected
from orchestrator.planning.data_notes import data_notes, datasets_of, is_by_image, plan_notes
from orchestrator.planning.plan import make_plan
from orchestrator.search.space_file import read_space
from trainables.config import DataConfig
from trainables.data import datasets
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


def test_plan_and_ledger_take_the_notes_of_the_data_sets(
    monkeypatch: pytest.MonkeyPatch,
):
    def load(config: DataConfig, **options: Any) -> Dataset:
        return replace(load_dataset(config, **options), notes=("2 excluded",), has_patients=False)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(collected, "load_dataset", load)
    plan = make_plan(SPACE)
    shown = dict(plan.lines())
    assert shown["notes"].splitlines() == list(plan.to_dict()["notes"]) == list(plan.notes)
    assert plan.notes[0] == "2 excluded"
    assert "patients" not in shown["data"]
    started = describe("small", SPACE)
    assert (started.data_notes, started.by_image) == (["2 excluded"], True)


def test_a_data_set_without_notes_leaves_plan_and_ledger_as_they_were():
    assert "notes" not in dict(make_plan(SPACE).lines())
    assert "patients" in make_plan(SPACE).data
    started = describe("small", SPACE)
    assert (started.data_notes, started.by_image) == ([], False)
    assert len(datasets_of(SPACE)) == 1
