"""The shipped words files: enough words, no negation, and unseen prompts that training never uses."""

from __future__ import annotations

import pytest
from sentences import overlaps, tokens, training_captions

from trainables import resolve
from trainables.data.datasets import DATASETS
from trainables.data.phantom import CLASSES, lesion_of, report
from trainables.data.records import NO_FINDING
from trainables.data.sets import medmnist
from trainables.data.sets.description import SetDescription
from trainables.data.words.choose import choose_words
from trainables.data.words.shipped import FOLDER, SHIPPED, find_shipped, read_shipped
from trainables.data.words.templates import TEMPLATES
from trainables.data.words.words import Words

PHANTOM_REPORTS = {report(lesion_of(0, index, class_name=name)) for index in range(300) for name in CLASSES}
FINDINGS = "chest_findings"
DESCRIBED = {name: resolve(path) for name, path in DATASETS.items()}
FINDING_SETS = {
    name: described.classes
    for name, described in DESCRIBED.items()
    if isinstance(described, SetDescription) and described.task == "multilabel"
} | {"chestmnist": (*medmnist.FINDINGS.values(), NO_FINDING)}
EVERY_FILE = pytest.mark.parametrize("name", SHIPPED)


def test_every_file_in_the_folder_is_registered() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(SHIPPED)


@EVERY_FILE
def test_unseen_prompts_share_no_sentence_and_no_five_words_with_training(name: str) -> None:
    classes = read_shipped(name).classes.values()
    trained = [*training_captions(classes), *PHANTOM_REPORTS]
    assert not overlaps([prompt for words in classes for prompt in words.unseen], trained)


@EVERY_FILE
def test_every_class_has_enough_words_and_no_sentence_serves_twice(name: str) -> None:
    classes = read_shipped(name).classes
    everything = [
        sentence
        for words in classes.values()
        for sentence in (
            words.template, *words.findings, *words.unseen, *words.templates, *sum(words.pairs, ())
        )
    ]  # fmt: skip
    assert len(everything) == len(set(everything))
    assert len(set(TEMPLATES)) == 20
    for words in classes.values():
        assert len(words.findings) >= (6 if name == FINDINGS else 8)
        assert len(words.unseen) >= (4 if name == FINDINGS else 5)
        assert len(words.pairs) >= 3


@EVERY_FILE
def test_no_sentence_negates(name: str) -> None:
    negating = {"no", "not", "non", "without", "free", "absent", "absence", "negative", "never", "lack"}
    classes = read_shipped(name).classes.values()
    said = [sentence for words in classes for sentence in (*words.unseen, *sum(words.pairs, ()))]
    for sentence in (*said, *training_captions(classes), *PHANTOM_REPORTS):
        assert not negating & set(tokens(sentence)), sentence


@EVERY_FILE
def test_every_published_prompt_has_its_source(name: str) -> None:
    content = read_shipped(name)
    used = {source for words in content.classes.values() for source in words.published}
    assert used == content.sources.keys()


@pytest.mark.parametrize("name", DATASETS)
def test_every_class_of_a_described_set_has_shipped_words(name: str) -> None:
    described = DESCRIBED[name]
    labels = (
        (described.labels.values() or described.classes) if isinstance(described, SetDescription) else CLASSES
    )
    if not labels:
        assert name in ("image_folder", "manifest")  # their labels are the user's
        return
    words = choose_words(tuple(dict.fromkeys(labels)), shipped=getattr(described, "words", None))
    assert words.origin == "shipped"
    assert words.source == (getattr(described, "words", None) or words.source)


def test_a_file_is_found_by_all_of_its_labels_spelt_alike() -> None:
    assert find_shipped(CLASSES) == "covid_qu_ex"
    assert find_shipped(["Normal", "COVID-19"]) == "covid_qu_ex"
    assert find_shipped(["NORMAL", "PNEUMONIA"]) == "pneumonia"
    assert find_shipped(["health", "sick", "tb"]) == "tuberculosis"
    assert find_shipped(["Normal", "CoViD-19"]) is None
    assert find_shipped(["Normal", "COVID-19", "Fracture"]) is None


@pytest.mark.parametrize("labels", FINDING_SETS.values(), ids=FINDING_SETS)
def test_findings_of_public_sets_have_words_without_doubts(labels: tuple[str, ...]) -> None:
    words = choose_words(labels)
    assert (words.origin, words.source) == ("shipped", FINDINGS)
    assert words.doubts() == []
    assert words.published(None).keys() == set(labels)


def test_findings_of_several_sets_can_be_joined() -> None:
    everything = Words(read_shipped(FINDINGS).classes, "shipped", FINDINGS)
    assert everything.doubts() == []
    known = read_shipped(FINDINGS).by_label()
    assert known["Effusion"] == known["Pleural Effusion"] == known["pleural effusion"]
    assert known["pleural"] == known["Pleural_Thickening"] == known["Pleural thickening"]
    assert known["Infiltrate"] == known["Infiltration"] == known["infiltrates"]
    assert known["normal"] == known["No finding"] == known[NO_FINDING]


@pytest.mark.parametrize(
    ("labels", "file"),
    [
        (("Pneumothorax", "No pneumothorax"), "pneumothorax"),
        (("Normal", "Pneumonia"), "pneumonia"),
        (("Normal", "Tuberculosis"), "tuberculosis"),
        (("Normal", "Lung Opacity", "No Lung Opacity / Not Normal"), "pneumonia"),
        (("Pneumothorax", "No Finding"), FINDINGS),
        (("Normal", "Cardiomegaly"), FINDINGS),
    ],
)
def test_classes_that_exclude_each_other_keep_their_own_file(labels: tuple[str, ...], file: str) -> None:
    assert find_shipped(labels) == file


def test_sentences_about_findings_are_short_because_a_caption_joins_several() -> None:
    for words in read_shipped(FINDINGS).classes.values():
        assert max(len(sentence.split()) for sentence in words.findings) <= 9


def test_the_pairs_of_no_finding_ask_for_normal_signs() -> None:
    pairs = read_shipped(FINDINGS).classes[NO_FINDING].pairs
    assert ("A normal chest film.", "An abnormal chest film.") in pairs
