"""The description of a data set: its files, and how path, patient, view and label are read from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainables.config import Task
from trainables.data.records import NO_FINDING
from trainables.data.tables import Columns

if TYPE_CHECKING:
    import numpy as np

    from trainables.data.records import ImageRecord
    from trainables.data.sets.folder import SetFolder


@dataclass(frozen=True, slots=True)
class Row:
    """One image as the set describes it, in the set's own words. None = the set does not say.

    `path` is relative to the folder of the set. `place` names the row of a table, such as `train.csv line 7`.
    """

    path: str
    label: str | None = None  # without label and labels, the image is left out
    labels: Mapping[str, int | str | None] | None = None
    """Label → 1, 0, -1 (uncertain) or None (blank), also as text, of a multi-label set. Missing = blank."""
    place: str | None = None
    patient: str | None = None
    split: str | None = None
    view: str | None = None
    sex: str | None = None
    age: str | None = None
    source: str | None = None
    report: str | None = None
    mask: str | None = None
    infection_mask: str | None = None
    digest: str | None = None
    """Hash of the pixels, for an image in an array. `path` is then only its name."""


Rows = Callable[["SetFolder"], Iterable[Row]]
"""Function that yields the rows of an opened set; `Files` and `TableRows` are such functions."""


@dataclass(frozen=True)
class SetDescription:
    """A data set that the reader can read, and the facts that `data show` prints."""

    name: str
    title: str
    rows: Rows
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Label in the set → class, in the order of the classes. Empty: the labels are the classes."""
    task: Task | None = "multiclass"
    """None: it depends on the files. The set is multi-label if its rows have `labels`."""
    findings: Mapping[str, str] = field(default_factory=dict[str, str])
    """Label in a multi-label set → finding, in the order of the findings. Empty: the labels are the findings.

    `No Finding` need not be here: it is always the last, and is derived where the set does not state it.
    """
    folders: tuple[str, ...] = ()
    """Names of folders that may enclose the files, such as the archive. Each may be doubled: NAME/NAME."""
    contains: tuple[str, ...] = ()
    """Files or folders that show that this is the folder of the set."""
    finds_by_name: bool = False
    """Whether a table names files without their folders. The files are then searched for in all folders."""
    may_lack_files: bool = False
    """Whether rows without a file are left out and counted: few users have all files of a large set."""
    may_lack_findings: bool = False
    """Whether findings that no row has, not even as blank, are left out: forms of a set differ in them."""
    decoder: Callable[[SetFolder], Callable[[ImageRecord], np.ndarray]] | None = None
    """Function that returns the decoder (see `Dataset`) of images that are not separate files."""
    has_patients: bool | None = True  # None: it depends on the files
    has_patient_ids_in_headers: bool = True
    """Whether PatientID in a DICOM header names a patient, and not the image."""
    notes: tuple[str, ...] = ()
    """Traps that every leaderboard of this set names."""
    words: str | None = None  # name of the shipped file of words; None: made from the labels
    layout: str = ""
    size: str = ""
    licence: str = ""
    url: str = ""
    citation: str = ""
    traps: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes or findings, as far as they do not depend on the files. `No Finding` is the last."""
        findings = [name for name in self.findings.values() if name != NO_FINDING]
        return tuple(dict.fromkeys([*self.labels.values(), *findings, *([NO_FINDING] if findings else [])]))


@dataclass(frozen=True)
class Files:
    """Rows from file names: `pattern` matches the path below the folder, without regard to case.

    Its named groups are fields of `Row`. Files that do not match are counted and left out. `mask` and
    `infection_mask` are templates for `re.Match.expand`.
    """

    pattern: str
    mask: str | None = None
    infection_mask: str | None = None

    def __call__(self, folder: SetFolder) -> Iterator[Row]:
        """Yields a row for each image whose path matches."""
        pattern = re.compile(self.pattern, re.IGNORECASE)
        for path in folder.images:
            if (match := pattern.fullmatch(path)) is None:
                folder.leave_out("images in other folders")
                continue
            known: dict[str, Any] = {
                name: value for name, value in match.groupdict().items() if name in _FIELDS and value
            }
            masks: dict[str, Any] = {
                name: match.expand(t) for name in ("mask", "infection_mask") if (t := getattr(self, name))
            }
            yield Row(path=path, **known, **masks)


@dataclass(frozen=True)
class TableRows:
    """Rows from a table: `path` is a template of column names, such as `images/{image}.png`.

    Attributes:
        table: file of the table, relative to the folder; the first that exists is read.
        path: template for the path of the image.
        columns: field of `Row` or name in `path` → column of the table.
        optional: the same for columns that may be missing.
        split: split of every row of this table, if there is no column for it.
    """

    table: tuple[str, ...]
    path: str
    columns: Mapping[str, str]
    optional: Mapping[str, str] = field(default_factory=dict[str, str])
    split: str | None = None

    def __call__(self, folder: SetFolder) -> Iterator[Row]:
        """Yields a row for each line of the table."""
        wanted = Columns(
            {n: (c,) for n, c in self.columns.items()}, {n: (c,) for n, c in self.optional.items()}
        )
        table = folder.read_table(self.table, wanted)
        for line, values in table.rows:
            known = {name: values[name] for name in _FIELDS if values.get(name)}
            row: dict[str, Any] = {
                "label": None,
                "split": self.split,
                **known,
                "path": self.path.format_map(values),
            }
            yield Row(place=f"{table.path.name} line {line}", **row)


_FIELDS = frozenset(Row.__dataclass_fields__) - {"path", "place"}
