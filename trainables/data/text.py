"""Captions for training and prompts for zero-shot scores, from the words of a data set (`data/words/`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainables.config import CaptionKind, PromptFamily
from trainables.data.counter_rng import counter_rng
from trainables.data.records import Dataset, ImageRecord
from trainables.data.words.words_file import ClassWords


def captions_for(
    dataset: Dataset, indices: np.ndarray, *, kind: CaptionKind, seed: int, epoch: int
) -> list[str]:
    """Returns one caption per train record; (seed, epoch, image) selects one of several captions.

    Raises ValueError for a record of val or test, because its caption would reveal its label.
    """
    words = [dataset.words.of(name) for name in dataset.classes]
    captions = []
    for i, k in zip(indices.tolist(), dataset.class_indices(indices), strict=True):
        possible = captions_of(dataset, dataset.records[i], words[k], kind=kind)
        drawn = counter_rng("caption", seed, epoch, i).integers(len(possible)) if len(possible) > 1 else 0
        captions.append(possible[int(drawn)])
    return captions


def captions_of(
    dataset: Dataset, record: ImageRecord, words: ClassWords, *, kind: CaptionKind
) -> Sequence[str]:
    """Returns the possible captions of a train record of a class.

    A record's `report_text` is an additional finding. A description of its mask replaces all others.
    """
    if record.split != "train":
        raise ValueError(
            f"{record.image_id} is in split '{record.split}', and its caption would reveal its label"
        )
    description = dataset.descriptions.get(record.image_id)
    match kind:
        case "class_template":
            return (words.template,)
        case "template":
            return words.templates
        case "blip_label":
            return (with_label(dataset.descriptions[record.image_id], words),)
        case "mask_finding" if description is not None:
            return (description,)
        case "finding" | "mask_finding":
            return words.findings if record.report_text is None else (*words.findings, record.report_text)


def with_label(description: str, words: ClassWords) -> str:
    """Returns a description with the pattern of the class appended."""
    return f"{description.rstrip('. ')}, {words.pattern}."


def every_caption(dataset: Dataset, *, kind: CaptionKind) -> list[str]:
    """Returns each caption that `captions_for` can return, without duplicates."""
    words, train = [dataset.words.of(name) for name in dataset.classes], dataset.indices("train")
    possible = (
        captions_of(dataset, dataset.records[i], words[k], kind=kind)
        for i, k in zip(train.tolist(), dataset.class_indices(train), strict=True)
    )
    return list(dict.fromkeys(caption for captions in possible for caption in captions))


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
            return Prompts(
                {name: [p for p in prompts if isinstance(p, str)] for name, prompts in published.items()}
            )
        case _:
            return Prompts({name: list(_single(dataset.words.of(name), family)) for name in dataset.classes})


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
