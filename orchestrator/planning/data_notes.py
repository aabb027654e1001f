"""Collects what a reader of the results must know about the data of a sweep."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from orchestrator.planning.tasks import finding_notes
from orchestrator.results.captions import BY_IMAGE
from orchestrator.search.space import SearchSpace
from trainables.data.datasets import load_dataset
from trainables.data.records import Dataset


def datasets_of(space: SearchSpace) -> list[Dataset]:
    """Returns every data set that the trials of a space read."""
    read = {config.data_to_read.model_dump_json(): config.data_to_read for config in space.trials_to_check()}
    return [load_dataset(config) for config in read.values()]


def data_notes(datasets: Iterable[Dataset]) -> tuple[str, ...]:
    """Returns the notes of data sets, each once. With several data sets, a note names its data set."""
    found = list(datasets)
    noted = [(dataset.name, note) for dataset in found for note in dataset.notes]
    folds: dict[tuple[str, tuple[str, ...]], list[Dataset]] = {}
    for dataset in found:
        if dataset.task == "multilabel":
            folds.setdefault((dataset.name, dataset.findings), []).append(dataset)
    noted += [(name, note) for (name, _), of_set in folds.items() for note in finding_notes(of_set)]
    is_one = len({name for name, _ in noted}) == 1
    return tuple(dict.fromkeys(note if is_one else f"{name}: {note}" for name, note in noted))


def plan_notes(datasets: Collection[Dataset]) -> tuple[str, ...]:
    """Returns the notes of a plan: those of its data sets, and whether intervals are by image."""
    return (*data_notes(datasets), *([f"intervals are {BY_IMAGE}"] if is_by_image(datasets) else []))


def is_by_image(datasets: Iterable[Dataset]) -> bool:
    """Returns whether a data set has no patient ids, so that its splits and intervals are by image."""
    return not all(dataset.has_patients for dataset in datasets)
