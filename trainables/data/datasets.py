"""The data sets by name. Each is a function of the configuration; `load_dataset` adds splits and checks."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainables.artifacts import file_sha256, fingerprint
from trainables.config import DataConfig
from trainables.data.adapt_on import check_apart
from trainables.data.copies import check_no_contradiction, count_copies, groups
from trainables.data.formats.decode import DECODING_VERSION
from trainables.data.paths import open_root
from trainables.data.records import NO_FINDING, Dataset, ImageRecord, LabelledImages
from trainables.data.reports.read import with_reports
from trainables.data.sets.description import SetDescription
from trainables.data.sets.reader import read_set
from trainables.data.splits import check_no_leak, cut_fold, given_or_drawn, permute_labels
from trainables.data.tasks import TASKS
from trainables.data.words.choose import choose_words
from trainables.errors import ConfigError, DataError
from trainables.references import resolve

DATASETS: dict[str, str] = {
    "phantom": "trainables.data.phantom:phantom",
    "phantom_findings": "trainables.data.phantom_findings:phantom_findings",
    "covid_qu_ex": "trainables.data.sets.covid_qu_ex:COVID_QU_EX",
    "covid_radiography": "trainables.data.sets.covid_radiography:COVID_RADIOGRAPHY",
    "kermany": "trainables.data.sets.kermany:KERMANY",
    "rsna": "trainables.data.sets.rsna:RSNA",
    "siim": "trainables.data.sets.siim:SIIM",
    "montgomery": "trainables.data.sets.nlm_tuberculosis:MONTGOMERY",
    "shenzhen": "trainables.data.sets.nlm_tuberculosis:SHENZHEN",
    "tb_rahman": "trainables.data.sets.tb_rahman:TB_RAHMAN",
    "tbx11k": "trainables.data.sets.tbx11k:TBX11K",
    "padchest": "trainables.data.sets.padchest:PADCHEST",
    "vindr_cxr": "trainables.data.sets.vindr_cxr:VINDR_CXR",
    "brax": "trainables.data.sets.brax:BRAX",
    "openi": "trainables.data.sets.openi:OPENI",
    "medmnist": "trainables.data.sets.medmnist:MEDMNIST",
    "nih14": "trainables.data.sets.nih14:NIH14",
    "chexpert": "trainables.data.sets.chexpert:CHEXPERT",
    "mimic_cxr": "trainables.data.sets.mimic_cxr:MIMIC_CXR",
    "union": "trainables.data.union:union",
    "image_folder": "trainables.data.sets.image_folder:IMAGE_FOLDER",
    "manifest": "trainables.data.sets.manifest:MANIFEST",
}
"""Name → "module:NAME" of a `SetDescription`, or of a function (DataConfig) -> LabelledImages.

A public data set also needs an entry in `models/catalogue/origins.py`. Without it, nobody is warned that an
encoder was trained on its images.
"""
_OF_REPORTS = ("report_sections", "report_sentences", "drop_comparisons")
_NOT_READ = ("augmentation", "num_views", "captions", "adapt_on", *_OF_REPORTS)
_AFTER_READING = ("num_folds", "fold", "permute_labels", "prompts")
"""Settings that do not change which files are read, so trials that differ in them share one reading."""


def load_dataset(config: DataConfig, *, with_test_labels: bool = False) -> Dataset:
    """Returns the data set of a configuration, in a fixed order, split by patient and checked for leaks.

    The files are read once per process; later changes to them are not seen.

    Args:
        config: the data set and its splits.
        with_test_labels: only the scoring on test and `data check` set this. Otherwise test records have no
            labels, report texts or infection masks.

    Raises:
        ConfigError: the data set is unknown; the message suggests the nearest name.
        DataError: files are missing, unsafe or unlabelled, or patients or images leak between splits.
    """
    if config.adapt_on.dataset is not None:
        scored, trained = _load(_without(config, *_NOT_READ), with_test_labels), training_set(config)
        notes = (f"adapted on {len(trained.indices('train')):,} images of {trained.name}", *trained.notes)
        return replace(scored, notes=(*scored.notes, *notes))
    if config.captions == "report":
        return _load_with_reports(_without(config, "augmentation", "num_views"), with_test_labels)
    return _load(_without(config, *_NOT_READ), with_test_labels)


def training_set(config: DataConfig) -> Dataset:
    """Returns the data set whose train images train an adapter: that of `data`, or of `data.adapt_on`.

    A data set of `data.adapt_on` needs no labels.

    Raises:
        DataError: an image or a patient of its train split is in val or test of `data`.
    """
    if config.adapt_on.dataset is None:
        return load_dataset(config)
    return _load_training_set(_without(config, "augmentation", "num_views"))


@lru_cache(maxsize=4)
def _load_training_set(config: DataConfig) -> Dataset:
    trained_on = config.trained_on
    trained = with_reports(_load(_without(trained_on, *_NOT_READ), False, is_scored=False), trained_on)
    scored = _load(_without(config, *_NOT_READ), False)
    check_apart(trained, scored, content=(_content_of(trained_on), _content_of(config)), config=config)
    return trained


@lru_cache(maxsize=4)
def _load_with_reports(config: DataConfig, with_test_labels: bool) -> Dataset:
    return with_reports(_load(_without(config, *_NOT_READ), with_test_labels), config)


@lru_cache(maxsize=16)
def _load(config: DataConfig, with_test_labels: bool, is_scored: bool = True) -> Dataset:
    images = _read(_without(config, *_AFTER_READING))
    records = sorted(images.records, key=lambda record: record.image_id)
    check_no_contradiction(records, images.content)
    notes = [*images.notes]
    together = groups(records, images.content)
    if config.num_folds is not None and config.fold is not None:
        folds = {"num_folds": config.num_folds, "fold": config.fold}
        records = cut_fold(records, together, task=images.task, **folds, seed=config.seed)
    elif images.has_splits or is_scored:  # else all images train
        records, drawn = given_or_drawn(
            records, together, task=images.task, has_splits=images.has_splits, seed=config.seed
        )
        notes += [*images.split_notes, *drawn]
    check_no_leak(records, content=images.content)
    changed = [record.train_labels for record in records if record.train_labels]
    content_fingerprint = fingerprint(
        "images",
        DECODING_VERSION,
        images.classes,
        [(r.image_id, r.patient_id, r.labels, images.content[r.image_id]) for r in records],
        *([changed] if changed else []),
    )
    records = [_with_train_labels(record) for record in records]
    if copies := count_copies(records, images.content):
        notes.append(f"copies: {copies:,} images are identical to another image of their split")
    if is_scored and images.classes == (NO_FINDING,):
        raise DataError(
            f"{config.dataset}: no image has a label; give the table a column 'label', or name this "
            "data set in data.adapt_on"
        )
    try:
        if is_scored:
            TASKS[images.task].check_complete(records, images.classes)
    except DataError as error:
        raise DataError(f"{config.name}: {error}") from None
    words = choose_words(images.classes, shipped=images.words, path=config.prompts)
    if note := words.note():
        notes.append(note)
    if config.permute_labels:
        records = permute_labels(records, seed=config.seed)
    return Dataset(
        name=config.name,
        classes=images.classes,
        records=tuple(r if with_test_labels else _withhold(r) for r in records),
        content_fingerprint=content_fingerprint,
        fingerprint=fingerprint(
            "splits",
            content_fingerprint,
            [(r.split, r.labels, r.report_text, r.finding_text) for r in records],
        ),
        decode=images.decode,
        task=images.task,
        notes=tuple(notes),
        details=images.details,
        has_patients=images.has_patients,
        words=words,
    )


def with_masks(of_images: str, config: DataConfig) -> str:
    """Returns a data set's fingerprint, extended by the masks if captions are made from masks.

    It is also extended by the data set of `data.adapt_on`, and by its words.

    The masks of every split count, so that all folds share one fingerprint. They are read once per process.

    Args:
        of_images: `fingerprint` or `content_fingerprint` of the data set.
        config: the `data_to_read` of a trial.
    """
    if config.adapt_on.dataset is not None:
        trained = training_set(config)
        inputs = with_masks(trained.fingerprint, config.trained_on), trained.words.fingerprint
        return fingerprint("adapted on", of_images, *inputs)
    if config.captions != "mask_finding" or config.permute_labels:  # permuting drops the masks
        return of_images
    masks = _masks(_without(config, *_AFTER_READING, *_NOT_READ))
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
    images = _read(_without(config, *_AFTER_READING, *_NOT_READ))
    folders = {f"{name}/": config.root / name for name in config.union} or {"": config.root}
    roots = {prefix: open_root(folder, dataset=config.name) for prefix, folder in folders.items()}
    named = {record.image_id: record.path for record in images.records if record.path is not None}
    masks = [path for record in images.records for path in (record.mask_path, record.infection_mask_path)]
    others = [*images.tables, *(path for path in masks if path is not None)]
    return named | {_name_below(roots, path): path for path in others}


def _name_below(roots: Mapping[str, Path], path: Path) -> str:
    """Returns the name of a file: a prefix, and the path below the root with that prefix."""
    prefix, root = next(each for each in roots.items() if path.is_relative_to(each[1]))
    return f"{prefix}{path.relative_to(root).as_posix()}"


def _content_of(config: DataConfig) -> Mapping[str, str]:
    """Returns image_id → what determines the pixels."""
    return _read(_without(config, *_AFTER_READING, *_NOT_READ)).content


@lru_cache(maxsize=4)
def _read(config: DataConfig) -> LabelledImages:
    if config.dataset not in DATASETS:
        near = difflib.get_close_matches(config.dataset, DATASETS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigError(
            f"data.dataset: no data set '{config.dataset}'{hint} (known: {', '.join(DATASETS)})"
        )
    found = resolve(DATASETS[config.dataset])
    return read_set(found, config) if isinstance(found, SetDescription) else found(config)


def _without(config: DataConfig, *unread: str) -> Any:  # Any: pyright does not know it is hashable
    """Returns the configuration with these fields at their defaults, so that folds share one reading."""
    return config.model_copy(update={name: DataConfig.model_fields[name].default for name in unread})


def _with_train_labels(record: ImageRecord) -> ImageRecord:
    """Returns a record with the labels of its split: those of val and test do not depend on a setting."""
    if record.train_labels is None:
        return record
    labels = record.train_labels if record.split == "train" else record.labels
    return replace(record, labels=labels, train_labels=None)


def _withhold(record: ImageRecord) -> ImageRecord:
    if record.split != "test":
        return record
    return replace(record, labels={}, report_text=None, finding_text=None, infection_mask_path=None)
