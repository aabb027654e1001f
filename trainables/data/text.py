"""Captions for training and prompts for zero-shot scores, from the words of a data set (`data/words/`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainables.config import CaptionKind, PromptFamily
from trainables.data.counter_rng import counter_rng
from trainables.data.records import Dataset, ImageRecord
from trainables.data.tasks import TASKS
from trainables.data.words.words_file import ClassWords

NO_LABEL = "A chest X-ray."
"""The caption of an image whose labels are all 0 or unknown."""


def captions_for(
    dataset: Dataset, indices: np.ndarray, *, kind: CaptionKind, seed: int, epoch: int
) -> list[str]:
    """Returns one caption per train record: a sentence for each class or finding of the image.

    (seed, epoch, image) selects one of several sentences, and the order of the sentences.

    Raises ValueError for a record of val or test, because its caption would reveal its labels.
    """
    captions: list[str] = []
    for i in indices.tolist():
        if kind == "report" and (
            said := dataset.reports.caption(dataset.records[i].image_id, seed=seed, epoch=epoch)
        ):
            captions.append(said)
            continue
        rng = counter_rng("caption", seed, epoch, i)
        parts = [
            possible[int(rng.integers(len(possible))) if len(possible) > 1 else 0]
            for possible in sentences_of(dataset, dataset.records[i], kind=kind)
        ]
        order = rng.permutation(len(parts)) if len(parts) > 1 else range(len(parts))
        captions.append(" ".join(parts[place] for place in order) or NO_LABEL)
    return captions


def sentences_of(dataset: Dataset, record: ImageRecord, *, kind: CaptionKind) -> list[Sequence[str]]:
    """Returns the possible sentences for each class or finding of a train record.

    A description of its mask replaces all of them.
    """
    if record.split != "train":
        raise ValueError(
            f"{record.image_id} is in split '{record.split}', and its caption would reveal its label"
        )
    words = [dataset.words.of(name) for name in dataset.classes if record.labels[name] == 1]
    description = dataset.descriptions.get(record.image_id)
    match kind:
        case "class_template":
            return [(of_class.template,) for of_class in words]
        case "template":
            return [of_class.templates for of_class in words]
        case "blip_label":
            return [(with_labels(dataset.descriptions[record.image_id], words),)]
        case "mask_finding" if description is not None:
            return [(description,)]
        case "finding" | "mask_finding" | "report" if record.finding_text is not None:
            return [(*of_class.findings, record.finding_text) for of_class in words]
        case "finding" | "mask_finding" | "report":
            return [of_class.findings for of_class in words]


def with_labels(description: str, words: Sequence[ClassWords]) -> str:
    """Returns a description with the patterns of the classes appended."""
    return f"{', '.join([description.rstrip('. '), *(of_class.pattern for of_class in words)])}."


def every_sentence(dataset: Dataset, *, kind: CaptionKind) -> list[str]:
    """Returns each sentence of which `captions_for` makes captions, without duplicates."""
    possible = (
        sentences
        for i in dataset.indices("train")
        for sentences in sentences_of(dataset, dataset.records[i], kind=kind)
    )
    return list(dict.fromkeys(sentence for sentences in possible for sentence in sentences))


@dataclass(frozen=True)
class Prompts:
    """The prompts of one family: class → sentences, in the order of the classes.

    If `contrary` is given, a class is scored by its prompts against their contraries.
    """

    of_class: dict[str, list[str]]
    contrary: dict[str, list[str]] | None = None


def prompts_of(dataset: Dataset, family: PromptFamily, *, published_by: str | None = None) -> Prompts:
    """Returns the prompts of a family. `published_by` is the source of family `published`.

    Raises:
        ConfigError: no source of published prompts has every class.
    """
    match family:
        case "pair":
            return _pairs({name: dataset.words.of(name).pairs for name in dataset.classes})
        case "published":
            published = dataset.words.published(published_by)
            pairs = {
                name: [p for p in prompts if not isinstance(p, str)] for name, prompts in published.items()
            }
            if any(pairs.values()):  # a words file has one form of prompts for each source
                return _pairs(pairs)
            said = {name: [p for p in prompts if isinstance(p, str)] for name, prompts in published.items()}
            return Prompts(said, TASKS[dataset.task].contrary(said))
        case _:
            said = {name: list(_single(dataset.words.of(name), family)) for name in dataset.classes}
            return Prompts(said, TASKS[dataset.task].contrary(said))


def training_prompts(dataset: Dataset) -> dict[str, list[str]]:
    """Returns class → prompts of family `training`, in the order of the classes."""
    return prompts_of(dataset, "training").of_class


def _single(
    words: ClassWords, family: Literal["class_name", "template", "training", "unseen"]
) -> Sequence[str]:
    match family:
        case "class_name":
            return (words.name,)
        case "template":
            return words.templates
        case "training":
            return words.findings
        case "unseen":
            return words.unseen


def _pairs(pairs: Mapping[str, Sequence[tuple[str, str]]]) -> Prompts:
    return Prompts(
        {name: [finding for finding, _ in of_class] for name, of_class in pairs.items()},
        {name: [contrary for _, contrary in of_class] for name, of_class in pairs.items()},
    )
