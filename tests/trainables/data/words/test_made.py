"""Words made from labels: in prose, affirmative for a normal class, and unseen prompts really unseen."""

from __future__ import annotations

import pytest
from sentences import overlaps, training_captions

from trainables.data.words.made import make_words, names_nothing, to_prose
from trainables.data.words.templates import FINDINGS, TEMPLATES, UNSEEN


@pytest.mark.parametrize(
    ("label", "prose"),
    [
        ("Lung_Opacity", "lung opacity"),
        ("01_Lung-Opacity", "lung opacity"),
        ("LungOpacity", "lung opacity"),
        ("1.pneumonia", "pneumonia"),
        ("pneumonia 2", "pneumonia"),
        ("PNEUMONIA", "pneumonia"),
        ("Viral Pneumonia", "viral pneumonia"),
        ("active TB", "active TB"),
        ("TBActive", "TB active"),
        ("COPD", "COPD"),
        ("COVID", "COVID"),
        ("covid-19", "COVID-19"),
        ("Non-COVID", "non COVID"),
        ("  spaced   out ", "spaced out"),
        ("Überblähung", "überblähung"),
        ("7", "7"),
    ],
)
def test_a_label_is_put_into_prose(label: str, prose: str) -> None:
    assert to_prose([label]) == [prose]


def test_numbers_stay_where_they_tell_two_classes_apart() -> None:
    assert to_prose(["grade_1", "grade_2", "3_normal"]) == ["grade 1", "grade 2", "normal"]
    assert to_prose(["1", "2"]) == ["1", "2"]


@pytest.mark.parametrize(
    "label", ["Normal", "NORMAL", "normal", "No Finding", "no_findings", "Healthy", "health", "0_Normal"]
)
def test_a_normal_class_is_described_without_a_negation(label: str) -> None:
    words = make_words([label, "Lung_Opacity"])[label]
    assert words.pattern == "clear, normal lungs"
    assert ("A normal chest radiograph.", "An abnormal chest radiograph.") in words.pairs
    assert "finding" not in " ".join([words.name, *words.findings, *words.unseen]).lower()


@pytest.mark.parametrize("label", ["Abnormal", "No pneumothorax", "normal_variant", "not normal", "sick"])
def test_other_classes_are_not_taken_for_normal(label: str) -> None:
    assert make_words([label, "Normal"])[label].pattern != "clear, normal lungs"


def test_the_contrary_of_a_finding_is_normal_and_of_a_negation_the_finding() -> None:
    words = make_words(["Pneumothorax", "No pneumothorax"])
    assert words["Pneumothorax"].pairs[0] == ("Pneumothorax is present.", "The chest is normal.")
    assert words["No pneumothorax"].pairs[0] == ("No pneumothorax is present.", "Pneumothorax is present.")


@pytest.mark.parametrize("label", ["{x}", "___", "a\x07\nb", "x" * 5_000, "a{}b", "no {x}"])
def test_an_odd_label_still_gets_words(label: str) -> None:
    words = make_words([label, "Normal"])[label]
    assert words.name in words.findings[0]
    assert all(sentence.isprintable() for sentence in words.unseen)


def test_a_number_names_nothing() -> None:
    assert [label for label in ("0", "1_", "TB", "7b") if names_nothing(label)] == ["0", "1_", "7b"]


def test_an_answer_names_nothing() -> None:
    labels = ("True", "FALSE", "yes", "Positive", "class_1", "Positive TB", "Normal")
    assert [label for label in labels if not names_nothing(label)] == ["Positive TB", "Normal"]


def test_unseen_prompts_are_unseen_when_the_label_counts_as_one_word() -> None:
    """A label may itself be five words long, so it counts as one."""
    trained = [*TEMPLATES, *FINDINGS, "A chest X-ray with the pattern of {}."]
    blank = [sentence.replace("{}", "blank") for sentence in trained]
    assert not overlaps([sentence.replace("{}", "blank") for sentence in UNSEEN], blank)


@pytest.mark.parametrize("labels", [["tb", "health"], ["Lung_Opacity", "No Finding", "Viral Pneumonia"]])
def test_unseen_prompts_of_short_labels_are_unseen_word_by_word(labels: list[str]) -> None:
    words = make_words(labels).values()
    assert not overlaps([prompt for of in words for prompt in of.unseen], training_captions(words))
