"""Captions for training and prompts for zero-shot scores, from the words of a data set (`data/words/`)."""

from __future__ import annotations

from collections.abc import Sequence

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


def class_prompts(dataset: Dataset, family: PromptFamily) -> dict[str, list[str]]:
    """Returns class → prompts of a family, in the order of the classes; for `pair`, the findings."""
    words = {name: dataset.words.of(name) for name in dataset.classes}
    match family:
        case "class_name":
            return {name: [of_class.name] for name, of_class in words.items()}
        case "template":
            return {name: list(of_class.templates) for name, of_class in words.items()}
        case "training":
            return {name: list(of_class.findings) for name, of_class in words.items()}
        case "unseen":
            return {name: list(of_class.unseen) for name, of_class in words.items()}
        case "pair":
            return {name: [finding for finding, _ in of_class.pairs] for name, of_class in words.items()}


def contrary_prompts(dataset: Dataset) -> dict[str, list[str]]:
    """Returns class → contrary prompts of family `pair`, in the order of the findings."""
    return {name: [contrary for _, contrary in dataset.words.of(name).pairs] for name in dataset.classes}
