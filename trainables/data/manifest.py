"""Reads the user's images from a CSV with the columns path, label, patient_id and, optionally, split."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from trainables.artifacts import file_sha256
from trainables.config import DataConfig, Split
from trainables.data.datasets import LabelledImages, one_hot
from trainables.data.decode import FileDecoder
from trainables.data.paths import confined, open_root
from trainables.data.problems import refuse
from trainables.data.records import ImageRecord
from trainables.errors import DataError

REQUIRED = ("path", "label", "patient_id")
OPTIONAL = ("split",)


def manifest(config: DataConfig) -> LabelledImages:
    """Reads the table `data.manifest` in `data.root`, with one row per image; classes are sorted by name.

    Without a `split` column, splits are drawn by patient (`splits.draw_splits`). Other columns are ignored.

    Raises:
        DataError: lists every unusable row, with line and column.
    """
    root = open_root(config.root, dataset="manifest")
    table = find_table(config.manifest, root=root)
    rows = read_table(table, required=REQUIRED, optional=OPTIONAL)
    classes = tuple(sorted({row["label"] for _, row in rows}))
    if len(classes) < 2:
        raise DataError(f"{table.name}: column 'label' has {len(classes)} class, but at least 2 are needed")
    labels, has_splits = one_hot(classes), "split" in rows[0][1]

    problems: list[str] = []
    records: dict[str, ImageRecord] = {}
    places: dict[str, str] = {}
    for line, row in rows:
        place = f"{table.name} line {line}"
        try:
            path = confined(row["path"], root=root)
            image_id = Path(row["path"]).as_posix()
            if image_id in records:
                raise ValueError(f"column 'path': {image_id!r} is already used on {places[image_id]}")
            records[image_id] = ImageRecord(
                image_id=image_id,
                patient_id=_filled(row, "patient_id"),
                split=_split(row["split"]) if has_splits else "train",
                labels=labels[_single(_filled(row, "label"))],
                path=path,
            )
            places[image_id] = place
        except ValueError as error:
            problems.append(f"{place}: {error}")
    refuse(problems, about=f"unusable rows of {table}")
    return LabelledImages(
        classes=classes,
        records=list(records.values()),
        content={r.image_id: file_sha256(r.path) for r in records.values() if r.path is not None},
        decode=FileDecoder(places),
        has_splits=has_splits,
        tables=(table,),
    )


def find_table(name: str, *, root: Path) -> Path:
    """Returns the path of a table inside the data set's folder."""
    try:
        return confined(name, root=root)
    except ValueError as error:
        raise DataError(f"table {error}; name one in {root}: --set data.manifest=FILE.csv") from error


def read_table(
    path: Path, *, required: Sequence[str], optional: Sequence[str] = ()
) -> list[tuple[int, dict[str, str]]]:
    """Returns the rows of a UTF-8 CSV file with their line numbers, without blanks around the values."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or [])
            _check_columns(path, columns, required=required, optional=optional)
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a UTF-8 CSV file ({error})") from error
    if not rows:
        raise DataError(f"{path}: no rows below the header")
    ragged = [
        f"line {line}: {len(columns)} values expected"
        for line, row in rows
        if None in row or None in row.values()
    ]
    refuse(ragged, about=f"unusable rows of {path}")
    return [(line, {column: value.strip() for column, value in row.items()}) for line, row in rows]


def _check_columns(
    path: Path, columns: list[str], *, required: Sequence[str], optional: Sequence[str]
) -> None:
    for name in (*required, *optional):
        if name in columns:
            continue
        near = difflib.get_close_matches(name, [c for c in columns if c not in required], n=1, cutoff=0.8)
        if near or name in required:  # with a misspelt 'split', splits would silently be drawn at random
            hint = f"; is it '{near[0]}'?" if near else ""
            raise DataError(f"{path}: no column '{name}'{hint} (columns: {', '.join(columns) or 'none'})")


def _filled(row: dict[str, str], column: str) -> str:
    if not row[column]:
        raise ValueError(f"column '{column}' is empty")
    return row[column]


def _single(label: str) -> str:
    if "|" in label:
        raise ValueError(
            f"column 'label': {label!r} names several findings; multi-label data sets are not supported"
        )
    return label


def _split(name: str) -> Split:
    if name.lower() not in get_args(Split):
        raise ValueError(f"column 'split': {name!r} is not one of {', '.join(get_args(Split))}")
    return name.lower()  # type: ignore[return-value]
