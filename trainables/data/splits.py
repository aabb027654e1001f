"""Draws splits by patient, divides the records into folds, and checks for leaks between splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from trainables.config import Split, Task
from trainables.data.counter_rng import counter_rng
from trainables.data.problems import refuse
from trainables.data.records import ImageRecord
from trainables.data.tasks import TASKS


def given_or_drawn(
    records: Sequence[ImageRecord], groups: Sequence[str], *, task: Task, has_splits: bool, seed: int
) -> tuple[list[ImageRecord], list[str]]:
    """Returns the records with their given splits, or with drawn ones if they have none, and notes."""
    splits = {record.split for record in records}
    if not has_splits:
        return draw_splits(records, groups, task=task, seed=seed), []
    if "val" not in splits and splits >= {"train", "test"}:
        drawn = draw_val(records, groups, task=task, seed=seed)
        return drawn, ["split 'val' is not given: an eighth of train was drawn"]
    return list(records), []


def draw_splits(
    records: Sequence[ImageRecord], groups: Sequence[str], *, task: Task, seed: int
) -> list[ImageRecord]:
    """Returns the records split by group, stratified by class: 70 % train, 10 % val, 20 % test.

    `groups` has the group of each record, such as its patient (`copies.groups`).
    """
    parts = _group_parts(records, groups, task=task, num_parts=10, seed=seed)
    splits: list[Split] = ["test" if part < 2 else "val" if part == 2 else "train" for part in parts]
    return [replace(record, split=split) for record, split in zip(records, splits, strict=True)]


def draw_val(
    records: Sequence[ImageRecord], groups: Sequence[str], *, task: Task, seed: int
) -> list[ImageRecord]:
    """Returns the records with an eighth of the groups in train as val. Test is not changed."""
    rest = [i for i, record in enumerate(records) if record.split == "train"]
    of_rest = [records[i] for i in rest], [groups[i] for i in rest]
    eighths = _group_parts(*of_rest, task=task, num_parts=8, seed=seed)
    drawn = {i for i, part in zip(rest, eighths, strict=True) if part == 0}
    return [replace(record, split="val") if i in drawn else record for i, record in enumerate(records)]


def cut_fold(
    records: Sequence[ImageRecord],
    groups: Sequence[str],
    *,
    task: Task,
    num_folds: int,
    fold: int,
    seed: int,
) -> list[ImageRecord]:
    """Returns the records with `fold` as test and an eighth of the other groups as val.

    Earlier splits of the records are ignored. Over all folds, every image is in test exactly once.
    """
    folds = _group_parts(records, groups, task=task, num_parts=num_folds, seed=seed)
    splits: list[Split] = ["test" if part == fold else "train" for part in folds]
    held_out = [replace(record, split=split) for record, split in zip(records, splits, strict=True)]
    return draw_val(held_out, groups, task=task, seed=seed)


def _group_parts(
    records: Sequence[ImageRecord], groups: Sequence[str], *, task: Task, num_parts: int, seed: int
) -> np.ndarray:
    patients = np.array(groups)
    strata = TASKS[task].strata(records, patients, num_parts)
    # Imported here: the import takes two seconds, and a data set with splits does not need it.
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(n_splits=num_parts, shuffle=True, random_state=seed % 2**32)
    parts = np.empty(len(records), dtype=np.int64)
    for part, (_, held_out) in enumerate(splitter.split(strata, strata, groups=patients)):
        parts[held_out] = part
    return parts


def check_no_leak(records: Sequence[ImageRecord], *, content: Mapping[str, str] | None = None) -> None:
    """Raises DataError if a patient or an identical file is in two splits.

    `content` maps image_id to the hash of the file. The message names each patient or pair of files, and the
    splits.
    """
    patients = {record.image_id: record.patient_id for record in records}
    leaks = [
        f"patient '{patient}' is in {' and '.join(images)}: {', '.join(images.values())}"
        for patient, images in _in_two_splits(records, patients)
    ]
    refuse(leaks, about="patients in several splits, a leak; give each of them a single one")
    if content is not None:
        twins = [
            f"identical files are in {' and '.join(images)}: {', '.join(images.values())}"
            for _, images in _in_two_splits(records, content)
        ]
        refuse(twins, about="identical images in several splits, a leak; delete all but one")


def _in_two_splits(
    records: Sequence[ImageRecord], key: Mapping[str, str]
) -> Iterator[tuple[str, dict[Split, str]]]:
    """Yields each key that occurs in several splits, with split → first image that has the key."""
    images: dict[str, dict[Split, str]] = {}
    for record in records:
        images.setdefault(key[record.image_id], {}).setdefault(record.split, record.image_id)
    yield from ((value, found) for value, found in images.items() if len(found) > 1)


def permute_labels(records: Sequence[ImageRecord], *, seed: int) -> list[ImageRecord]:
    """Returns the records with labels shuffled among the patients of each split: a control at chance level.

    All images of a patient get the labels of one other patient, in turn, so that labels within a patient
    stay as similar as before. Report texts and infection masks are removed, because they reveal the true
    label.
    """
    permuted = list(records)
    for number, split in enumerate(("train", "val", "test")):
        images: dict[str, list[int]] = {}
        for i, record in enumerate(records):
            if record.split == split:
                images.setdefault(record.patient_id, []).append(i)
        own = list(images.values())
        order = counter_rng("permute_labels", seed, number).permutation(len(own))
        for mine, donor in zip(own, order, strict=True):
            for turn, i in enumerate(mine):
                given = own[donor][turn % len(own[donor])]
                permuted[i] = replace(
                    records[i],
                    labels=records[given].labels,
                    report_text=None,
                    finding_text=None,
                    infection_mask_path=None,
                )
    return permuted
