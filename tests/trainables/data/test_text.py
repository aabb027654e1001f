import re

import numpy as np
import pytest

from trainables.config import DataConfig, PhantomConfig
from trainables.data.datasets import load_dataset
from trainables.data.phantom import lesion_of, report
from trainables.data.text import (
    CLASS_TEXTS,
    TEMPLATES,
    captions_for,
    class_prompts,
    contrary_prompts,
    every_caption,
    templates_of,
)
from trainables.errors import ConfigError

PHANTOM_REPORTS = {
    report(lesion_of(0, index, class_name=name)) for index in range(300) for name in CLASS_TEXTS
}


def training_captions():
    for text in CLASS_TEXTS.values():
        yield from (text.template, *text.findings, *templates_of(text))
    yield from PHANTOM_REPORTS


def words(sentence):
    return re.findall(r"[a-z0-9]+", sentence.lower())


def five_grams(sentence):
    tokens = words(sentence)
    return {tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4)}


def test_unseen_prompts_share_no_sentence_and_no_five_words_with_training():
    trained = list(training_captions())
    sentences = {tuple(words(caption)) for caption in trained}
    grams = set().union(*map(five_grams, trained))
    for text in CLASS_TEXTS.values():
        for prompt in text.unseen:
            assert tuple(words(prompt)) not in sentences
            assert not five_grams(prompt) & grams, prompt


def test_every_class_has_enough_words_and_no_sentence_serves_two_classes():
    everything = [
        sentence
        for text in CLASS_TEXTS.values()
        for pairs in [[sentence for pair in text.pairs for sentence in pair]]
        for sentence in (text.template, *text.findings, *text.unseen, *templates_of(text), *pairs)
    ]
    assert len(everything) == len(set(everything))
    assert len(set(TEMPLATES)) == 20
    for text in CLASS_TEXTS.values():
        assert len(text.findings) >= 8
        assert len(text.unseen) >= 4


def test_no_caption_negates():
    for caption in (*training_captions(), *(p for t in CLASS_TEXTS.values() for p in t.unseen)):
        assert not {"no", "not", "non", "without", "free", "absent"} & set(words(caption)), caption


def test_finding_captions_are_drawn_from_the_class_or_the_report():
    dataset = load_dataset(DataConfig(phantom=PhantomConfig(num_train=60, num_val=6, num_test=6)))
    train = dataset.indices("train")
    drawn = [captions_for(dataset, train, kind="finding", seed=0, epoch=epoch) for epoch in range(40)]
    reports = 0
    for i, captions in zip(train, zip(*drawn, strict=True), strict=True):
        name = dataset.classes[dataset.class_indices(np.array([i]))[0]]
        allowed = {*CLASS_TEXTS[name].findings, dataset.records[i].report_text}
        assert set(captions) <= allowed
        reports += dataset.records[i].report_text in captions
    assert reports > 40
    assert drawn[0] != drawn[1]
    assert drawn[3] == captions_for(dataset, train, kind="finding", seed=0, epoch=3)


def test_a_caption_does_not_depend_on_its_batch():
    dataset = load_dataset(DataConfig(phantom=PhantomConfig(num_train=60, num_val=6, num_test=6)))
    whole = captions_for(dataset, np.arange(30), kind="finding", seed=1, epoch=2)
    assert whole[7:12] == captions_for(dataset, np.arange(7, 12), kind="finding", seed=1, epoch=2)


def test_class_template_gives_each_class_one_caption():
    dataset = load_dataset(DataConfig(phantom=PhantomConfig(num_train=60, num_val=6, num_test=6)))
    train = dataset.indices("train")
    captions = captions_for(dataset, train, kind="class_template", seed=0, epoch=0)
    assert len(set(zip(captions, dataset.class_indices(train), strict=True))) == 3


def test_prompt_families_follow_the_order_of_the_classes():
    for family in ("class_name", "template", "training", "unseen", "pair"):
        prompts = class_prompts(("Normal", "COVID-19"), family)
        assert list(prompts) == ["Normal", "COVID-19"]
        assert all(prompts.values())
    contrary = contrary_prompts(("Normal", "COVID-19"))
    assert {name: len(texts) for name, texts in contrary.items()} == {
        name: len(texts) for name, texts in class_prompts(("Normal", "COVID-19"), "pair").items()
    }


def test_template_captions_are_drawn_from_the_class() -> None:
    dataset = load_dataset(DataConfig(phantom=PhantomConfig(num_train=60, num_val=6, num_test=6)))
    train = dataset.indices("train")
    drawn = [captions_for(dataset, train, kind="template", seed=0, epoch=epoch) for epoch in range(60)]
    for captions, k in zip(zip(*drawn, strict=True), dataset.class_indices(train), strict=True):
        assert set(captions) <= set(templates_of(CLASS_TEXTS[dataset.classes[k]]))
    assert {caption for captions in drawn for caption in captions} == set(
        every_caption(dataset, kind="template")
    )


def test_a_class_without_words_is_refused():
    with pytest.raises(ConfigError, match="class 'Tuberculosis' has no captions"):
        class_prompts(("Normal", "Tuberculosis"), "training")


def test_withheld_labels_give_no_caption():
    dataset = load_dataset(DataConfig(phantom=PhantomConfig(num_train=12, num_val=6, num_test=6)))
    with pytest.raises(ValueError, match="withheld"):
        captions_for(dataset, dataset.indices("test"), kind="finding", seed=0, epoch=0)
