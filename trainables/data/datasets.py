"""The data sets by name. Each is a function of the configuration; `load_dataset` adds splits and checks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from trainables import resolve
from trainables.artifacts import file_sha256, fingerprint
from trainables.config import DataConfig
from trainables.data.paths import open_root
from trainables.data.records import Dataset, ImageRecord
from trainables.data.splits import check_no_leak, cut_fold, draw_splits, permute_labels
from trainables.data.words.choose import choose_words
from trainables.errors import ConfigError, DataError

DATASETS: dict[str, str] = {
    "phantom": "trainables.data.phantom:phantom",
    "covid_qu_ex": "trainables.data.covid_qu_ex:covid_qu_ex",
    "manifest": "trainables.data.manifest:manifest",
}
"""Name → "module:function" of (DataConfig) -> LabelledImages.

A public data set also needs an entry in `models/catalogue/origins.py`. Without it, nobody is warned that an
encoder was trained on its images.
"""
_NOT_READ = ("augmentation", "num_views", "captions")
_OF_SPLITS = ("num_folds", "fold", "permute_labels")


@dataclass(frozen=True)
class LabelledImages:
    """The return value of a data set's function: every image with its label, and how to decode an image.

    If `has_splits` is false, the splits of the records are ignored and drawn by `load_dataset`.
    """

    classes: tuple[str, ...]
    records: Sequence[ImageRecord]
    content: Mapping[str, str]  # image_id → what determines the pixels, such as the file's SHA-256
    decode: Callable[[ImageRecord], np.ndarray]  # returns uint8 [H, W]; DataError names the file
    has_splits: bool = True
    tables: Sequence[Path] = ()  # files that were read in addition to the images
    words: str | None = None  # the file in `data/words/` for the classes of this data set


def load_dataset(config: DataConfig, *, with_test_labels: bool = False) -> Dataset:
    """Returns the data set of a configuration, in a fixed order, split by patient and checked for leaks.

    The files are read once per process; later changes to them are not seen.

    Args:
        config: the data set and its splits.
        with_test_labels: only `evaluate` sets this. Otherwise test records have no labels, report texts or
            infection masks.

    Raises:
        ConfigError: the data set is unknown; the message suggests the nearest name.
        DataError: files are missing, unsafe or unlabelled, or patients or images leak between splits.
    """
    return _load(_without(config, *_NOT_READ), with_test_labels)


@lru_cache(maxsize=16)
def _load(config: DataConfig, with_test_labels: bool) -> Dataset:
    images = _read(_without(config, *_OF_SPLITS))
    records = sorted(images.records, key=lambda record: record.image_id)
    if config.num_folds is not None and config.fold is not None:
        records = cut_fold(records, num_folds=config.num_folds, fold=config.fold, seed=config.seed)
    elif not images.has_splits:
        records = draw_splits(records, seed=config.seed)
    check_no_leak(records, content=images.content)
    _check_complete(records, images.classes, name=config.dataset)
    content_fingerprint = fingerprint(
        "images",
        images.classes,
        [(r.image_id, r.patient_id, r.labels, images.content[r.image_id]) for r in records],
    )
    if config.permute_labels:
        records = permute_labels(records, seed=config.seed)
    return Dataset(
        name=config.dataset,
        classes=images.classes,
        records=tuple(r if with_test_labels else _withhold(r) for r in records),
        content_fingerprint=content_fingerprint,
        fingerprint=fingerprint(
            "splits", content_fingerprint, [(r.split, r.labels, r.report_text) for r in records]
        ),
        decode=images.decode,
        words=choose_words(images.classes, shipped=images.words),
    )


def with_masks(of_images: str, config: DataConfig) -> str:
    """Returns a data set's fingerprint, extended by the masks if captions are made from masks.

    The masks of every split count, so that all folds share one fingerprint. They are read once per process.

    Args:
        of_images: `fingerprint` or `content_fingerprint` of the data set.
        config: the `data_to_read` of a trial.
    """
    if config.captions != "mask_finding" or config.permute_labels:  # permuting drops the masks
        return of_images
    masks = _masks(_without(config, *_OF_SPLITS, *_NOT_READ))
    return fingerprint("masked", of_images, masks) if masks else of_images


@lru_cache(maxsize=4)
def _masks(config: Any) -> str | None:  # Any: see `_without`
    """Returns the fingerprint of the masks that captions describe, or None without masks."""
    hashes = [
        (record.image_id, file_sha256(record.mask_path), file_sha256(record.infection_mask_path))
        for record in sorted(_read(config).records, key=lambda record: record.image_id)
        if record.mask_path and record.infection_mask_path
    ]
    return fingerprint("masks", hashes) if hashes else None


def files_of(config: DataConfig) -> dict[str, Path]:
    """Returns every file that a data set reads, by path relative to `data.root`; {} if it needs no folder.

    The tables are included with all labels. The code that reads the tables removes the test labels later.
    """
    if config.root is None:
        return {}
    images = _read(_without(config, *_OF_SPLITS, *_NOT_READ))
    root = open_root(config.root, dataset=config.dataset)
    named = {record.image_id: record.path for record in images.records if record.path is not None}
    masks = [path for record in images.records for path in (record.mask_path, record.infection_mask_path)]
    others = [*images.tables, *(path for path in masks if path is not None)]
    return named | {path.relative_to(root).as_posix(): path for path in others}


@lru_cache(maxsize=4)
def _read(config: DataConfig) -> LabelledImages:
    if config.dataset not in DATASETS:
        near = difflib.get_close_matches(config.dataset, DATASETS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigError(
            f"data.dataset: no data set '{config.dataset}'{hint} (known: {', '.join(DATASETS)})"
        )
    return resolve(DATASETS[config.dataset])(config)


def _without(config: DataConfig, *unread: str) -> Any:  # Any: pyright does not know it is hashable
    """Returns the configuration with these fields at their defaults, so that folds share one reading."""
    return config.model_copy(update={name: DataConfig.model_fields[name].default for name in unread})


def _check_complete(records: Sequence[ImageRecord], classes: Sequence[str], *, name: str) -> None:
    for split in ("train", "val", "test"):
        present = {c for r in records if r.split == split for c, value in r.labels.items() if value == 1}
        missing = [c for c in classes if c not in present]
        if missing:
            raise DataError(
                f"{name}: split '{split}' has no image of {', '.join(missing)}; "
                f"every split needs every class, or its metrics are undefined"
            )


def _withhold(record: ImageRecord) -> ImageRecord:
    if record.split != "test":
        return record
    return replace(record, labels={}, report_text=None, infection_mask_path=None)


def one_hot(classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Returns class → `ImageRecord.labels`; all records of a class share one mapping."""
    return {name: {other: int(other == name) for other in classes} for name in classes}
