"""Counts the sources of each class. If the source reveals the class, a model may learn the source."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

from trainables.data.records import Dataset
from trainables.scoring.metrics import ClassPairs, pair_name


def class_sources(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Returns {source: {class or finding: number of train and val images}}. Empty if no source is named."""
    table: dict[str, Counter[str]] = {}
    for i in dataset.indices("train", "val").tolist():
        if (source := dataset.records[i].source) is not None:
            table.setdefault(source, Counter()).update(dataset.present(i))
    return {source: dict(sorted(counts.items())) for source, counts in sorted(table.items())}


def same_source_pairs(dataset: Dataset) -> ClassPairs:
    """Returns the pairs of classes that have the same sources.

    The source does not reveal the class within such a pair, so metrics of the pair are reported too. Empty
    if no source is known, or if all classes have the same sources.
    """
    sources = {
        name: {source for source, counts in class_sources(dataset).items() if name in counts}
        for name in dataset.classes
    }
    if dataset.task == "multilabel":  # findings do not exclude each other
        return {}
    if all(of_class == sources[dataset.classes[0]] for of_class in sources.values()):
        return {}
    places = dict(zip(dataset.classes, range(len(dataset.classes)), strict=True))
    return {
        pair_name(first, second): (places[first], places[second])
        for first, second in combinations(dataset.classes, 2)
        if sources[first] and sources[first] == sources[second]
    }
