"""COVID-QU-Ex (Tahir et al. 2021, doi 10.1016/j.compbiomed.2021.104319), or a data set in its folders."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from trainables.artifacts import file_sha256
from trainables.config import DataConfig, Split
from trainables.data.datasets import LabelledImages, one_hot
from trainables.data.decode import IMAGE_SUFFIXES, FileDecoder
from trainables.data.manifest import find_table, read_table
from trainables.data.paths import open_root, regular_file
from trainables.data.problems import refuse
from trainables.data.records import ImageRecord
from trainables.errors import DataError

logger = logging.getLogger(__name__)

CLASSES = ("COVID-19", "Non-COVID", "Normal")
CLASS_OF_FOLDER = {"COVID-19": "COVID-19", "COVID": "COVID-19", "Non-COVID": "Non-COVID", "Normal": "Normal"}
SPLIT_OF_FOLDER: dict[str, Split] = {"Train": "train", "Val": "val", "Test": "test"}
OFFICIAL, INFECTIONS = "Lung Segmentation Data", "Infection Segmentation Data"
METADATA = "metadata.csv"


def covid_qu_ex(config: DataConfig) -> LabelledImages:
    """Reads {Train,Val,Test}/{COVID-19,Non-COVID,Normal}/images, in `data.root` or its official folder.

    The file `metadata.csv` beside the folders gives the patients (columns path, split, label, patient;
    optional group, source). The official release has no such file and no patient ids. Then every image
    counts as a separate patient, and a leak between splits cannot be ruled out.

    The infection mask of an image is the one with the same file name and class; not every image has one.

    Raises:
        DataError: lists everything that is missing or contradictory.
    """
    root = open_root(config.root, dataset="covid_qu_ex")
    base = _base(root)
    problems: list[str] = []
    records = list(_walk(base, root, problems))
    refuse(problems, about=f"unusable images under {base}")
    rows: dict[str, str] = {}
    tables: tuple[Path, ...] = ()
    if (base / METADATA).is_file():
        tables = (find_table(METADATA, root=base),)
        records, rows = _with_patients(records, base, root)
    else:
        logger.warning(
            "%s has no %s: every image counts as one patient, and leaks cannot be ruled out", base, METADATA
        )
    return LabelledImages(
        classes=CLASSES,
        records=records,
        content={r.image_id: file_sha256(r.path) for r in records if r.path is not None},
        decode=FileDecoder(rows),
        tables=tables,
        words="covid_qu_ex",
    )


def _base(root: Path) -> Path:
    candidates = (root, root / OFFICIAL, root / OFFICIAL / OFFICIAL)
    for base in candidates:
        if all((base / split).is_dir() for split in SPLIT_OF_FOLDER):
            return base
    raise DataError(
        f"data.root: {root} does not contain the folders {', '.join(SPLIT_OF_FOLDER)}, "
        f"directly or in '{OFFICIAL}/{OFFICIAL}'; give the right folder: --set data.root=FOLDER"
    )


def _infection_masks(base: Path, root: Path) -> dict[tuple[str, str], Path]:
    """Returns (class, file name) → infection mask, from both possible places in the release."""
    halves = [base, root / INFECTIONS, root / INFECTIONS / INFECTIONS]
    return {
        (class_name, path.name): path
        for half in halves
        for split_folder in SPLIT_OF_FOLDER
        for class_folder, class_name in CLASS_OF_FOLDER.items()
        for path in sorted((half / split_folder / class_folder / "infection masks").glob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    }


def _walk(base: Path, root: Path, problems: list[str]) -> Iterator[ImageRecord]:
    """Yields the images, each with its file stem as patient."""
    labels, infection_masks = one_hot(CLASSES), _infection_masks(base, root)
    for split_folder, split in SPLIT_OF_FOLDER.items():
        for class_folder, name in CLASS_OF_FOLDER.items():
            for path in sorted((base / split_folder / class_folder / "images").glob("*")):
                if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
                    continue
                try:
                    mask = path.parent.with_name("lung masks") / path.name
                    beside = path.parent.with_name("infection masks") / path.name
                    infection = beside if beside.is_file() else infection_masks.get((name, path.name))
                    yield ImageRecord(
                        image_id=path.relative_to(root).as_posix(),
                        patient_id=path.stem,
                        split=split,
                        labels=labels[name],
                        path=regular_file(path, root=root),
                        mask_path=regular_file(mask, root=root) if mask.is_file() else None,
                        infection_mask_path=regular_file(infection, root=root) if infection else None,
                    )
                except ValueError as error:
                    problems.append(str(error))


def _with_patients(
    records: list[ImageRecord], base: Path, root: Path
) -> tuple[list[ImageRecord], dict[str, str]]:
    """Returns the records with patients and sources from `metadata.csv`, and image_id → line in that file."""
    table = find_table(METADATA, root=base)
    listed = {
        row["path"]: (line, row)
        for line, row in read_table(table, required=("path", "split", "label", "patient"))
    }
    problems: list[str] = []
    described: list[ImageRecord] = []
    rows: dict[str, str] = {}
    for record in records:
        inside = (root / record.image_id).relative_to(base).as_posix()
        line, row = listed.pop(inside, (0, {}))
        if not row:
            problems.append(f"{inside}: not in column 'path'")
            continue
        place = rows[record.image_id] = f"{METADATA} line {line}"
        if SPLIT_OF_FOLDER.get(row["split"]) != record.split:
            problems.append(
                f"{place}: column 'split' says {row['split']!r}, the folder says {record.split!r}"
            )
        if not record.labels.get(CLASS_OF_FOLDER.get(row["label"], "")):
            problems.append(
                f"{place}: column 'label' says {row['label']!r}, the folder is {inside.split('/')[1]!r}"
            )
        patient = row.get("group") or row["patient"]  # similar images of several patients have the same group
        if not patient:
            problems.append(f"{place}: column 'patient' is empty")
        described.append(replace(record, patient_id=patient, source=row.get("source") or None))
    problems += [f"{METADATA} line {line}: no file {path!r}" for path, (line, _) in listed.items()]
    refuse(problems, about=f"unusable rows of {table}")
    return described, rows
