"""Captions and prompts follow the classes of a data set, and never reveal a withheld label."""

from dataclasses import replace

import numpy as np
import pytest

from trainables.config import DataConfig, PhantomConfig
from trainables.data.datasets import load_dataset
from trainables.data.text import captions_for, every_sentence, prompts_of
from trainables.errors import ConfigError


def test_finding_captions_are_drawn_from_the_class_or_the_report():
    dataset = load_dataset(DataConfig(phantom=PhantomConfig(num_train=60, num_val=6, num_test=6)))
    train = dataset.indices("train")
    drawn = [captions_for(dataset, train, kind="finding", seed=0, epoch=epoch) for epoch in range(40)]
    reports = 0
    for i, captions in zip(train, zip(*drawn, strict=True), strict=True):
        name = dataset.classes[dataset.class_indices(np.array([i]))[0]]
        allowed = {*dataset.words.of(name).findings, dataset.records[i].finding_text}
        assert set(captions) <= allowed
        reports += dataset.records[i].finding_text in captions
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
    phantom = load_dataset(DataConfig(phantom=PhantomConfig(num_train=12, num_val=6, num_test=6)))
    dataset = replace(phantom, classes=("Normal", "COVID-19"))
    for family in ("class_name", "template", "training", "unseen", "pair"):
        prompts = prompts_of(dataset, family)
        assert list(prompts.of_class) == ["Normal", "COVID-19"]
        assert all(prompts.of_class.values())
        assert (prompts.contrary is not None) == (family == "pair")
    pairs = prompts_of(dataset, "pair")
    assert pairs.contrary is not None
    assert {name: len(texts) for name, texts in pairs.contrary.items()} == {
        name: len(texts) for name, texts in pairs.of_class.items()
    }


def test_template_captions_are_drawn_from_the_class() -> None:
    dataset = load_dataset(DataConfig(phantom=PhantomConfig(num_train=60, num_val=6, num_test=6)))
    train = dataset.indices("train")
    drawn = [captions_for(dataset, train, kind="template", seed=0, epoch=epoch) for epoch in range(60)]
    for captions, k in zip(zip(*drawn, strict=True), dataset.class_indices(train), strict=True):
        assert set(captions) <= set(dataset.words.of(dataset.classes[k]).templates)
    assert {caption for captions in drawn for caption in captions} == set(
        every_sentence(dataset, kind="template")
    )


def test_a_class_without_words_is_refused():
    phantom = load_dataset(DataConfig(phantom=PhantomConfig(num_train=12, num_val=6, num_test=6)))
    with pytest.raises(ConfigError, match="class 'Tuberculosis' has no captions"):
        prompts_of(replace(phantom, classes=("Normal", "Tuberculosis")), "training")


def test_withheld_labels_give_no_caption():
    dataset = load_dataset(DataConfig(phantom=PhantomConfig(num_train=12, num_val=6, num_test=6)))
    with pytest.raises(ValueError, match="would reveal its label"):
        captions_for(dataset, dataset.indices("test"), kind="finding", seed=0, epoch=0)
