"""Doubts about words: seen prompts, negations, shared and long sentences. Shipped words raise none."""

from __future__ import annotations

from typing import Any

import pytest

from trainables.data.words.made import make_words
from trainables.data.words.shipped import SHIPPED, read_shipped
from trainables.data.words.words import Words
from trainables.data.words.words_file import ClassWords

RIB = ClassWords(
    name="broken rib",
    findings=("A fractured rib.", "A step in the outline of a rib."),
    unseen=("Discontinuous cortex.",),
    pairs=(("A rib is broken.", "Every rib is whole."),),
)
WHOLE = ClassWords(
    name="whole ribs",
    findings=("Intact ribs.", "Smooth outlines of all bones."),
    unseen=("Continuous cortex.",),
    pairs=(("Ribs are whole.", "Ribs are broken."),),
)


def doubts(*, reports: tuple[str, ...] = (), **changes: Any) -> list[str]:
    """The doubts about two classes, of which the first has these changes."""
    rib = ClassWords.model_validate(RIB.model_dump(exclude={"template", "pattern"}) | changes)
    return Words({"Rib": rib, "Whole": WHOLE}, "file", "own.yaml").doubts(reports)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_words_raise_no_doubt(name: str) -> None:
    assert Words(read_shipped(name).classes, "shipped", name).doubts() == []


def test_good_words_raise_no_doubt() -> None:
    assert doubts() == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"unseen": ["A fractured rib"]}, "shares the words 'a fractured rib'"),
        ({"unseen": ["See the step in the outline of it."]}, "shares the words 'step in the outline of'"),
        ({"unseen": ["Smooth outlines of all bones!"]}, "'Smooth outlines of all bones.'"),
        ({"unseen": ["A portable X-ray of the chest."]}, "shares the words 'a portable x ray of'"),
        ({"reports": ("There is a discontinuous cortex.",), "unseen": ["There is a discontinuous cortex"]},
         "'there is a discontinuous cortex'"),
        ({"findings": ["No whole rib.", "A step."]}, "findings: 'No whole rib.' negates"),
        ({"name": "no whole rib"}, "name: 'no whole rib' negates"),
        ({"pairs": [["A rib is broken.", "No rib is broken."]]}, "the contrary 'No rib is broken.' negates"),
        ({"pairs": [["A break.", "Absence of a break."]]}, "the contrary 'Absence of a break.' negates"),
        ({"pairs": [["A break.", "A film without a break."]]}, "negates"),
        ({"unseen": ["Continuous cortex."]}, "'Rib' and 'Whole': both say 'continuous cortex.'"),
        ({"unseen": ["bone " * 60]}, "has 60 words"),
    ],
)  # fmt: skip
def test_a_doubt_names_class_and_sentence(changes: dict[str, Any], said: str) -> None:
    found = doubts(**changes)
    assert len(found) == 1
    assert said in found[0]
    assert "'Rib'" in found[0]


def test_published_prompts_are_facts_and_may_negate() -> None:
    assert doubts(published={"CheXzero": [["Rib fracture", "no Rib fracture"]]}) == []


def made(*labels: str) -> list[str]:
    return Words(make_words(labels)).doubts()


def test_words_made_from_labels_raise_no_doubt_even_for_a_label_of_many_words() -> None:
    assert made("Normal", "Lung_Opacity", "a_label_of_more_than_five_words_in_all") == []


def test_labels_that_negate_name_nothing_or_mean_the_same_are_doubted() -> None:
    assert any("'no pneumothorax'" in line and "negates" in line for line in made("No pneumothorax", "Sick"))
    assert [line for line in made("0", "1") if "names no finding" in line]
    assert any("'Healthy' and 'Normal': both say" in line for line in made("Healthy", "Normal"))
