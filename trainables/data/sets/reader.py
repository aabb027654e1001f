"""Reads every described data set: makes records of its rows, with comparable patients, labels and views."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trainables.artifacts import file_sha256
from trainables.config import DataConfig, Split, Task
from trainables.data.formats.decode import FileDecoder
from trainables.data.identifiers import SPLITS, one_line, split_named
from trainables.data.paths import open_root
from trainables.data.problems import MAX_LISTED, refuse
from trainables.data.records import ImageRecord, LabelledImages
from trainables.data.sets.classes import Classes, find_classes
from trainables.data.sets.description import Row, SetDescription
from trainables.data.sets.excluded import Excluded, read_excluded
from trainables.data.sets.findings import Findings, find_findings
from trainables.data.sets.folder import SetFolder, find_base
from trainables.data.sets.headers import with_headers
from trainables.data.sets.patients import unify_patients
from trainables.data.values import age_of, is_missing, is_placeholder, sex_of
from trainables.data.views import is_frontal, view_of
from trainables.errors import DataError


def read_set(
    description: SetDescription, config: DataConfig, *, excluded: Excluded | None = None
) -> LabelledImages:
    """Reads a data set by its description.

    Args:
        description: the data set.
        config: the settings.
        excluded: images to leave out, whose use the caller checks; None = those of `data.exclude`.

    Raises:
        DataError: lists everything that is missing, unreadable or contradictory.
    """
    folder = open_folder(description, config)
    is_own = excluded is None
    excluded = read_excluded(config.exclude, root=folder.root) if excluded is None else excluded
    listed = list(description.rows(folder))
    num_unread = folder.left_out.total()
    if description.may_lack_files:
        listed = [row for row in listed if _is_there(row, folder, by_name=description.finds_by_name)]
    if listed and listed[0].place and (rest := len(folder.images) - len(listed) - num_unread) > 0:
        folder.details.append(f"{rest:,} images in {folder.base} are in no row of the table")
    described = [row for row in listed if not excluded.has(folder.from_root(row.path))]
    rows = [_tidy(row) for row in described if _is_wanted(row, folder)]
    if not rows:
        why = "".join(f"; {line}" for line in _left_out(folder.left_out))
        raise DataError(
            f"{description.name}: no labelled image in {folder.base}{why}; expected: {description.layout}"
        )
    task = _task(description, config, rows)
    find = find_classes if task == "multiclass" else find_findings
    reading = _Reading(folder, find(description, config, rows), excluded)
    for row in rows:
        reading.add(row, by_name=description.finds_by_name)
    refuse(reading.problems, about=f"unusable rows or images in {folder.base}")
    content = reading.digests | {r.image_id: _digest(r, r.path) for r in reading.records if r.path}
    read = with_headers(
        reading.records, content, folder.notes, has_patient_ids=description.has_patient_ids_in_headers
    )
    wanted = [record for record in read if _is_wanted_view(record.view, folder)]
    has_splits = _has_splits(rows, description.name)
    records, has_patients = unify_patients(wanted, has_splits=has_splits, notes=folder.notes)
    if is_own:
        excluded.check_all_used(description.name)
    labels = reading.classes.notes(records)
    notes = [*description.notes, *folder.notes, *labels, *_left_out(folder.left_out), *excluded.notes()]
    return LabelledImages(
        classes=reading.classes.names,
        records=records,
        content={record.image_id: content[record.image_id] for record in records},
        decode=description.decoder(folder) if description.decoder else FileDecoder(reading.places),
        has_splits=has_splits,
        has_patients=has_patients,
        tables=tuple(folder.tables),
        notes=tuple(notes),
        words=description.words,
        details=tuple(folder.details),
        task=task,
    )


def _task(description: SetDescription, config: DataConfig, rows: Sequence[Row]) -> Task:
    """Returns the task of a data set. Raises DataError for settings that need the other task."""
    by_rows: Task = "multilabel" if any(row.labels is not None for row in rows) else "multiclass"
    task = description.task or by_rows
    has = "several findings per image" if task == "multilabel" else "one class per image"
    if config.task not in ("auto", task):
        raise DataError(f"data.task={config.task}: {description.name} has {has}; leave data.task out")
    for name in ("uncertain", "blank"):
        if task == "multiclass" and getattr(config, name) != DataConfig.model_fields[name].default:
            raise DataError(
                f"data.{name}: {description.name} has {has}, so no label is {name}; leave data.{name} out"
            )
    return task


def _digest(record: ImageRecord, path: Path) -> str:
    """Returns the SHA-256 of a file. Empty files are no copies of each other; the decoder refuses them."""
    return file_sha256(path) if path.stat().st_size else f"empty file {record.image_id}"


def open_folder(description: SetDescription, config: DataConfig) -> SetFolder:
    """Returns the opened folder of a set.

    Raises:
        DataError: `data.root` does not have the files of the set.
    """
    root = open_root(config.root, dataset=description.name)
    base = find_base(root, folders=description.folders, contains=description.contains)
    if base is None:
        raise DataError(
            f"data.root: {root} does not contain {', '.join(description.contains)}; "
            f"{description.name} is expected as {description.layout}; give its folder: --set data.root=FOLDER"
        )
    return SetFolder(root, base, config)


def _tidy(row: Row) -> Row:
    """Returns a row with one Unicode composition of its label, and without a missing label or split."""
    label = one_line(row.label or "")
    label = "" if is_missing(label) else label
    return replace(row, label=label, split=None if is_missing(row.split) else row.split)


def _is_there(row: Row, folder: SetFolder, *, by_name: bool) -> bool:
    if not folder.has_image(row.path, by_name=by_name):
        folder.leave_out("rows without a file")
        return False
    return True


def _is_wanted(row: Row, folder: SetFolder) -> bool:
    """Returns whether an image is read. Counts the images that are left out."""
    if row.label is None and row.labels is None:
        folder.leave_out("images without a label")
        return False
    return _is_wanted_view(row.view, folder)


def _is_wanted_view(view: str | None, folder: SetFolder) -> bool:
    if folder.config.frontal_only and not is_frontal(view):
        folder.leave_out("images that are not frontal (--set data.frontal_only=false reads them)")
        return False
    return True


@dataclass
class _Reading:
    """The records that were read so far, and the problems that were found."""

    folder: SetFolder
    classes: Classes | Findings
    excluded: Excluded
    records: list[ImageRecord] = field(default_factory=list[ImageRecord])
    problems: list[str] = field(default_factory=list[str])
    places: dict[str, str] = field(default_factory=dict[str, str])
    digests: dict[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        self._used: dict[Path, str] = {}

    def add(self, row: Row, *, by_name: bool) -> None:
        """Adds the record of a row, or what is wrong with it."""
        try:
            path = None if row.digest else self._find(row, by_name=by_name)
            if path is not None and self.excluded.has(path.relative_to(self.folder.root).as_posix()):
                return
            record = self._record(row, path)
        except ValueError as error:
            self.problems.append(f"{row.place}: {error}" if row.place else str(error))
            return
        self.records.append(record)
        if row.place:
            self.places[record.image_id] = row.place
        if row.digest:
            self.digests[record.image_id] = row.digest

    def _record(self, row: Row, path: Path | None) -> ImageRecord:
        place = row.place or row.path
        if path is not None and (before := self._used.setdefault(path, place)) is not place:
            raise ValueError(f"image {row.path!r} is already used on {before}")
        labels = self.classes.labels_of(row)
        if row.patient is not None and is_missing(row.patient):
            raise ValueError("the patient is empty")
        if row.patient is not None and is_placeholder(row.patient):  # else all these would be one patient
            raise ValueError(f"{row.patient!r} is no patient; give every image a patient, or none")
        split: Split = "train"
        if row.split is not None:
            if (named := split_named(row.split)) is None:
                known = ", ".join(dict.fromkeys(SPLITS.values()))
                raise ValueError(f"split {row.split!r} is not one of {known}")
            split = named
        image_id = path.relative_to(self.folder.root).as_posix() if path else row.path
        if _UNWRITABLE.search(image_id):
            raise ValueError(f"{image_id!r} is not UTF-8 text, or has a control character; rename it")
        return ImageRecord(
            image_id=image_id,
            patient_id=row.patient or "",
            split=split,
            labels=labels,
            train_labels=self.classes.train_labels_of(row),
            path=path,
            report_text=None if is_missing(row.report) else row.report,
            mask_path=self._mask(row.mask),
            source=None if is_missing(row.source) else row.source,
            infection_mask_path=self._mask(row.infection_mask),
            view=view_of(row.view),
            sex=sex_of(row.sex),
            age=age_of(row.age),
        )

    def _find(self, row: Row, *, by_name: bool) -> Path:
        is_listed = len(self.problems) < MAX_LISTED  # no hint for problems that no message shows
        return self.folder.find(row.path, by_name=by_name, suggests=is_listed)

    def _mask(self, name: str | None) -> Path | None:
        if name is None:
            return None
        try:
            return self.folder.find(name, suggests=False)
        except ValueError:
            return None  # not every image has a mask


_UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # no list of files can hold such a name


def _has_splits(rows: Sequence[Row], name: str) -> bool:
    given = Counter(row.split is not None for row in rows)
    if len(given) > 1:
        some = next(row for row in rows if row.split is None)
        raise DataError(
            f"{name}: {given[True]} images have a split and {given[False]} have none, such as "
            f"{some.place or some.path}; give each image a split, or none"
        )
    return bool(given[True])


def _left_out(counts: Counter[str]) -> list[str]:
    return [f"left out: {count:,} {why}" for why, count in sorted(counts.items())]
