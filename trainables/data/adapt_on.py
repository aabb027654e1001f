"""Checks a data set for training alone (`data.adapt_on`): it has no scored image, and labels if needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trainables.config import DataConfig, TrialConfig
from trainables.data.problems import refuse
from trainables.data.records import NO_FINDING, Dataset
from trainables.errors import ConfigError

_OWN = ("manifest", "image_folder")
"""Names of many data sets. Equal patient ids in two of them do not mean the same person."""


def check_apart(
    trained: Dataset,
    scored: Dataset,
    *,
    content: tuple[Mapping[str, str], Mapping[str, str]],
    config: DataConfig,
) -> None:
    """Raises DataError if a train image or patient of `trained` is in val or test of `scored`.

    Patients are compared if both data sets have the same name, and for your own images the same folder.

    Args:
        trained: the data set of `data.adapt_on`.
        scored: the data set of `data`.
        content: for both data sets, image_id → the hash of its file.
        config: names the data sets and their folders.
    """
    files = {content[1][r.image_id]: r.image_id for r in scored.records if r.split != "train"}
    train = [record for record in trained.records if record.split == "train"]
    same = [(r.image_id, files[key]) for r in train if (key := content[0][r.image_id]) in files]
    refuse(
        [f"{one} of {trained.name} is {other} of {scored.name}" for one, other in same],
        about="images of data.adapt_on that are in val or test of data, a leak; list them in "
        "data.adapt_on.exclude",
    )
    if _have_comparable_patients(config):
        refuse(
            list(_shared_patients(trained, scored)),
            about="patients of data.adapt_on that are in val or test of data, a leak; list their images in "
            "data.adapt_on.exclude",
        )


def _have_comparable_patients(config: DataConfig) -> bool:
    other = config.adapt_on
    return other.dataset == config.dataset and (other.root == config.root or other.dataset not in _OWN)


def _shared_patients(trained: Dataset, scored: Dataset) -> Iterator[str]:
    if not (trained.has_patients and scored.has_patients):
        return
    held_out = {record.patient_id for record in scored.records if record.split != "train"}
    seen: dict[str, str] = {}
    for record in trained.records:
        if record.split == "train" and record.patient_id in held_out:
            seen.setdefault(record.patient_id, record.image_id)
    yield from (f"patient '{patient}', such as {image}" for patient, image in seen.items())


def check_trained_on(trained: Dataset, config: TrialConfig) -> None:
    """Checks that a data set without labels trains on texts, and that no image is a positive of all others.

    Raises:
        ConfigError: the captions or the loss need labels.
    """
    if trained.classes != (NO_FINDING,):
        return
    if config.data.captions not in ("report", "blip_label") or config.loss.asks_for_classes:
        raise ConfigError(
            f"data.adapt_on: {trained.name} has no labels, so captions and losses cannot use them; use "
            "data.captions=report with loss.kind=clip"
        )
    if "positives" in config.loss.reads and config.loss.positives == "class":
        raise ConfigError(
            f"data.adapt_on: {trained.name} has no labels, so loss.positives=class would make all images "
            "alike; use loss.kind=clip or loss.positives=caption"
        )
