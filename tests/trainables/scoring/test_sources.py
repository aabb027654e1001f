import numpy as np
import pytest
from films import films, with_findings

from trainables.config import Split
from trainables.scoring.sources import class_sources, same_source_pairs

CLASSES = ["COVID-19", "Non-COVID", "Normal"] * 3
SPLITS: list[Split] = ["train"] * 3 + ["val"] * 3 + ["test"] * 3


def of_sources(*sources: str | None):
    return films(np.zeros((9, 20, 20), np.uint8), CLASSES, SPLITS, sources=sources * 3)


def test_classes_of_one_source_are_paired() -> None:
    dataset = of_sources("Cohen", "NIH", "NIH")
    assert same_source_pairs(dataset) == {"non_covid_vs_normal": (1, 2)}
    assert class_sources(dataset) == {"Cohen": {"COVID-19": 2}, "NIH": {"Non-COVID": 2, "Normal": 2}}


@pytest.mark.parametrize("sources", [(None, None, None), ("NIH", "NIH", "NIH")])
def test_no_pair_where_sources_say_nothing(sources) -> None:
    assert same_source_pairs(of_sources(*sources)) == {}


def test_sources_of_findings_are_counted_and_pair_nothing() -> None:
    labels = [(1, 1), (0, 1), (0, -1)] * 3
    dataset = with_findings(of_sources("Cohen", "NIH", "NIH"), labels, "Edema", "Hernia")
    assert class_sources(dataset) == {"Cohen": {"Edema": 2, "Hernia": 2}, "NIH": {"Hernia": 2}}
    assert same_source_pairs(dataset) == {}
