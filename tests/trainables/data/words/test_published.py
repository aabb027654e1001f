"""Published prompts: one source for every class, as sentences or pairs, or a refusal that names classes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trainables.config import DataConfig, PhantomConfig
from trainables.data.datasets import load_dataset
from trainables.data.records import Dataset
from trainables.data.text import Prompts, prompts_of
from trainables.data.words.choose import choose_words
from trainables.errors import ConfigError


def dataset_of(*labels: str) -> Dataset:
    """A data set with these classes; its records do not matter here."""
    phantom = load_dataset(DataConfig(phantom=PhantomConfig(num_train=12, num_val=6, num_test=6)))
    return replace(phantom, classes=labels, words=choose_words(labels))


def test_pairs_are_scored_against_their_contraries() -> None:
    expected = Prompts(
        {"Normal": ["no Tuberculosis"], "Tuberculosis": ["Tuberculosis"]},
        {"Normal": ["Tuberculosis"], "Tuberculosis": ["no Tuberculosis"]},
    )
    assert prompts_of(dataset_of("Normal", "Tuberculosis"), "published") == expected  # the only source


def test_sentences_are_scored_class_against_class() -> None:
    prompts = prompts_of(dataset_of("normal", "pneumonia"), "published", published_by="BioViL")
    assert prompts.contrary is None
    assert "Findings suggesting pneumonia" in prompts.of_class["pneumonia"]
    assert "No evidence of pneumonia" in prompts.of_class["normal"]


def test_of_several_sources_one_must_be_chosen() -> None:
    with pytest.raises(ConfigError, match=r"CheXzero and BioViL have .*published_by=CheXzero"):
        prompts_of(dataset_of("normal", "pneumonia"), "published")


@pytest.mark.parametrize(
    ("labels", "source", "said"),
    [
        (("COVID-19", "Normal"), None, "MedCLIP has none for 'Normal'"),
        (("Normal", "Pneumonia"), "MedCLIP", "MedCLIP has none for 'Normal'"),
        (("Normal", "Pneumonia", "Lung_Opacity"), "BioViL", "BioViL has none for 'Lung_Opacity'"),
        (("Normal", "Gallstone"), None, "these classes have none"),
        (("Normal", "Tuberculosis"), "CheXZero", "did you mean 'CheXzero'?"),
        (("Normal", "Gallstone"), "CheXzero", "no prompts of 'CheXzero' for these classes"),
    ],
)
def test_a_class_without_published_prompts_is_refused_by_name(
    labels: tuple[str, ...], source: str | None, said: str
) -> None:
    with pytest.raises(ConfigError, match="zero_shot") as caught:
        prompts_of(dataset_of(*labels), "published", published_by=source)
    assert said in str(caught.value)
