"""The words of a data set: the user's file before the shipped one, and that before words from the labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from trainables.data.records import NO_FINDING
from trainables.data.words import choose
from trainables.data.words.choose import choose_words
from trainables.data.words.shipped import read_shipped
from trainables.data.words.words_file import to_yaml
from trainables.errors import ConfigError

COVID = ("COVID-19", "Non-COVID", "Normal")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's file with the classes of COVID-QU-Ex, in which one name is another."""
    choose._read.cache_clear()
    words = read_shipped("covid_qu_ex")
    path = tmp_path / "own.yaml"
    path.write_text(to_yaml(words.classes, words.sources).replace("a normal chest", "a healthy chest"))
    return path


def test_the_words_of_the_data_set_are_shipped() -> None:
    words = choose_words(COVID, shipped="covid_qu_ex")
    assert (words.origin, words.source, words.note()) == ("shipped", "covid_qu_ex", None)
    assert tuple(words.classes) == COVID


def test_another_shipped_file_serves_where_the_own_one_lacks_a_class() -> None:
    words = choose_words(("Normal", "Lung_Opacity"), shipped="covid_qu_ex")
    assert (words.origin, words.source) == ("shipped", "pneumonia")


def test_words_are_made_where_no_shipped_file_has_every_class() -> None:
    words = choose_words(("Normal", "gall_stone"), shipped="covid_qu_ex")
    assert words.origin == "made"
    assert words.note() == "words made from the labels"
    assert words.of("gall_stone").name == "gall stone"


def test_the_user_s_file_comes_first(own: Path) -> None:
    words = choose_words(COVID, shipped="covid_qu_ex", path=own)
    assert words.origin == "file"
    assert words.of("Normal").name == "a healthy chest"
    assert words.note() == "words of the file own.yaml"  # without its folder
    assert words.fingerprint != choose_words(COVID, shipped="covid_qu_ex").fingerprint


def test_a_label_is_found_in_another_unicode_composition_and_with_other_blanks(own: Path) -> None:
    own.write_text(own.read_text().replace("Non-COVID:", '"Pe\u0301rite  a ":'))
    assert tuple(choose_words(("COVID-19", "P\u00e9rite a"), path=own).classes) == (
        "COVID-19",
        "P\u00e9rite a",
    )


def test_equal_words_have_equal_fingerprints_wherever_they_come_from(own: Path) -> None:
    own.write_text(own.read_text().replace("a healthy chest", "a normal chest"))
    there = choose_words(COVID, shipped="covid_qu_ex")
    assert choose_words(COVID, path=own).fingerprint == there.fingerprint


def test_further_classes_of_a_file_are_allowed(own: Path) -> None:
    assert tuple(choose_words(("Normal", "COVID-19"), path=own).classes) == ("Normal", "COVID-19")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("Normal", "covid-19"), r"'covid-19' \(the file has 'COVID-19'\)"),
        (("Normal", "COVID19"), r"'COVID19' \(did you mean 'COVID-19'\?\)"),
        (("Normal", "Fracture"), r"no words for 'Fracture' \(the file has: COVID-19, Non-COVID, Normal\)"),
    ],
)
def test_a_class_that_a_file_lacks_is_refused_by_name(own: Path, labels: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        choose_words(labels, path=own)


def findings_file(path: Path, **classes: str) -> Path:
    """A user's file for findings: label → name."""
    choose._read.cache_clear()
    form = {"findings": ["A {}."], "unseen": ["Some {}."], "pairs": [["One {}.", "A clear chest of {}."]]}
    filled = {
        label: {
            "name": name,
            **{
                key: [[s.format(name) for s in e] if isinstance(e, list) else e.format(name) for e in entries]
                for key, entries in form.items()
            },
        }
        for label, name in classes.items()
    }
    path.write_text(yaml.safe_dump({"classes": filled}))
    return path


def test_no_finding_has_shipped_words_where_a_file_lacks_it(tmp_path: Path) -> None:
    path = findings_file(tmp_path / "own.yaml", Mass="tumour", Edema="wet lung")
    words = choose_words(("Mass", "Edema", NO_FINDING), path=path)
    assert words.of("Mass").name == "tumour"
    assert words.of(NO_FINDING).findings == read_shipped("chest_findings").classes[NO_FINDING].findings
    assert words.note() == "words of the file own.yaml, with shipped words for 'No Finding'"
    assert choose_words(("Mass", "Edema"), path=path).note() == "words of the file own.yaml"


def test_the_words_of_a_file_for_no_finding_are_used(tmp_path: Path) -> None:
    path = findings_file(tmp_path / "own.yaml", **{"Mass": "tumour", NO_FINDING: "sound chest"})
    words = choose_words(("Mass", NO_FINDING), path=path)
    assert (words.of(NO_FINDING).name, words.added) == ("sound chest", ())


@pytest.mark.parametrize("label", ["no finding", "Normal", "Healthy"])
def test_another_label_of_a_file_that_means_no_finding_is_named(tmp_path: Path, label: str) -> None:
    path = findings_file(tmp_path / "own.yaml", **{"Mass": "tumour", label: "sound chest"})
    with pytest.raises(ConfigError, match=rf"no words for 'No Finding'.*the file has.*{label}"):
        choose_words(("Mass", NO_FINDING), path=path)
