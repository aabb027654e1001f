"""Contradictory labels of identical files."""

import pytest

from trainables.data.copies import check_no_contradiction
from trainables.data.records import ImageRecord
from trainables.errors import DataError


def copies_of(*labels: dict[str, int]) -> tuple[list[ImageRecord], dict[str, str]]:
    records = [ImageRecord(f"{i}.png", f"p{i}", "train", of_image) for i, of_image in enumerate(labels)]
    return records, {record.image_id: "same" for record in records}


def test_unknown_labels_of_copies_contradict_nothing() -> None:
    check_no_contradiction(*copies_of({"Edema": 1, "Hernia": -1}, {"Edema": 1, "Hernia": 0}))
    check_no_contradiction(*copies_of({"Edema": 0, "Hernia": -1}, {"Edema": -1, "Hernia": -1}))


def test_copies_with_contrary_findings_are_refused_even_with_an_unknown_label_between() -> None:
    with pytest.raises(DataError, match=r"1\.png is 'Edema', and its copy 2\.png is without a finding"):
        check_no_contradiction(*copies_of({"Edema": -1}, {"Edema": 1}, {"Edema": 0}))


def test_other_files_contradict_nothing() -> None:
    records, _ = copies_of({"Edema": 1}, {"Edema": 0})
    check_no_contradiction(records, {record.image_id: record.image_id for record in records})
