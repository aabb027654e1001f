"""Sentences of reports: where they end, what removed words leave, remarks on earlier studies."""

from __future__ import annotations

import pytest

from trainables.data.reports.sentences import is_comparison, sentences_of, split_sentences, without_removed


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Clear lungs. No effusion.", ["Clear lungs.", "No effusion."]),
        ("A 1.5 cm nodule, approx. 2 cm from the hilum.", ["A 1.5 cm nodule, approx. 2 cm from the hilum."]),
        ("Seen by Dr. Roe. Heart normal", ["Seen by Dr. Roe.", "Heart normal"]),
        ("1. No effusion. 2. Heart normal. 3) Clear.", ["No effusion.", "Heart normal.", "Clear."]),
        ("Fracture at level 5. The heart is normal.", ["Fracture at level 5.", "The heart is normal."]),
        ("- Clear lungs", ["Clear lungs"]),
        ("Is this edema? Clear!", ["Is this edema?", "Clear!"]),
        ("Clear.. Heart normal .", ["Clear.", "Heart normal."]),
        ("", []),
    ],
)
def test_where_a_sentence_ends(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Chest x-XXXX, 2 views.", "Chest, 2 views."),
        ("The XXXX lungs are clear.", "The lungs are clear."),
        ("Discussed with Dr. ___ on ___.", "Discussed."),
        ("___-year-old man (___) with edema.", "man with edema."),
        ("Tube, as of XXXX/XXXX, in place.", "Tube, as, in place."),
    ],
)
def test_removed_words_leave_no_blanks_or_marks(text: str, sentence: str) -> None:
    assert split_sentences(without_removed(text)) == [sentence]


def test_a_sentence_of_removed_words_is_dropped_and_each_occurs_once() -> None:
    text = "XXXX XXXX. ___.\nClear lungs\nClear lungs.\n1."
    assert sentences_of(text, drop_comparisons=False) == ["Clear lungs."]


@pytest.mark.parametrize(
    "sentence",
    [
        "Compared to ___, there is no effusion.",
        "The heart is unchanged.",
        "Interval removal of the tube.",
        "As on the previous radiograph, the heart is large.",
        "Again seen is a nodule.",
        "Edema has increased since the prior study.",
        "No significant change.",
        "Stable cardiomegaly.",
    ],
)
def test_remarks_on_earlier_studies(sentence: str) -> None:
    assert is_comparison(sentence)
    assert sentences_of(f"{sentence} Clear lungs.", drop_comparisons=True) == ["Clear lungs."]
    assert len(sentences_of(f"{sentence} Clear lungs.", drop_comparisons=False)) == 2


@pytest.mark.parametrize(
    "sentence",
    [
        "Increased interstitial markings.",
        "Patient is status post prior median sternotomy.",
        "Sequelae of previous granulomatous disease.",
        "No acute bony change.",
        "There is a priority nodule.",
    ],
)
def test_a_description_of_this_image_stays(sentence: str) -> None:
    assert not is_comparison(sentence)
