"""The shipped words files: enough words, no negation, and unseen prompts that training never uses."""

from __future__ import annotations

import pytest
from sentences import overlaps, tokens, training_captions

from trainables import resolve
from trainables.data.datasets import DATASETS
from trainables.data.phantom import CLASSES, lesion_of, report
from trainables.data.sets.description import SetDescription
from trainables.data.words.choose import choose_words
from trainables.data.words.shipped import FOLDER, SHIPPED, find_shipped, read_shipped
from trainables.data.words.templates import TEMPLATES

PHANTOM_REPORTS = {report(lesion_of(0, index, class_name=name)) for index in range(300) for name in CLASSES}
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
        assert len(words.findings) >= 8
        assert len(words.unseen) >= 5
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
    described = resolve(DATASETS[name])
    labels = (
        (described.labels.values() or described.classes) if isinstance(described, SetDescription) else CLASSES
    )
    if not labels:
        assert name in ("image_folder", "manifest")  # their labels are the user's
        return
    if isinstance(described, SetDescription) and described.task == "multilabel":
        pytest.skip("the words of findings are not shipped yet")
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
