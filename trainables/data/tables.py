"""Reads tables as text: detects separator and encoding, and finds columns by their usual names."""

from __future__ import annotations

import codecs
import csv
import difflib
import gzip
import io
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainables.data.problems import refuse
from trainables.errors import DataError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
MAX_TABLE_BYTES = 512 * 2**20
"""Limit after decompression. The largest public table, PadChest's, has about 100 MB."""
_NEVER_MISSPELT = ("label", "split", "patient_id")
"""Columns that are refused under a similar name, even if optional. Else splits would silently be drawn."""
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_OTHER_FORMATS = {b"PK\x03\x04": "an Excel or ZIP file", b"\xd0\xcf\x11\xe0": "an old Excel file"}


@dataclass(frozen=True)
class Columns:
    """The columns that a reader needs: name → other names of the same column, compared by letters alone."""

    required: Mapping[str, Sequence[str]]
    optional: Mapping[str, Sequence[str]]
    has_others: bool = False
    """Whether rows also have the values of all other columns, by their names in the file."""


@dataclass(frozen=True)
class Table:
    """A table that was read. Rows have the names of `Columns`, and values without outer blanks."""

    path: Path
    rows: list[tuple[int, dict[str, str]]]  # with their line numbers
    columns: dict[str, str]  # name in `Columns` → column of the file
    notes: tuple[str, ...]  # what was detected, for the user
    unread: tuple[str, ...] = ()  # columns that were not asked for

    def has(self, name: str) -> bool:
        """Returns whether the file has this column."""
        return name in self.columns


def read_table(path: Path, columns: Columns) -> Table:
    """Returns the rows of a CSV file, which may be compressed with gzip.

    Raises:
        DataError: the file is no table, lacks a column, or has rows of another length. The message names all.
    """
    text, encoding = _decoded(path)
    if "\n" not in text:  # lines end with a carriage return alone in files of old Macs
        text = text.replace("\r", "\n")
    csv.field_size_limit(2**24)  # reports of 100 kB are one value
    separator, header, skipped = _header(text, columns)
    found = _find_columns(path, header, columns)
    unread = tuple(column for column in header if column and column not in found.values())
    others = unread if columns.has_others else ()
    if several := [column for column in others if header.count(column) > 1]:
        raise DataError(f"{path}: several columns are named '{several[0]}'; rename all but one")
    wanted = {column: column for column in others} | found
    places = {name: header.index(column) for name, column in wanted.items()}
    rows, ragged = _rows(text, separator, skipped, num_columns=len(header), places=places)
    refuse(ragged, about=f"unusable rows of {path}")
    if not rows:
        raise DataError(f"{path}: no rows below the header")
    detected = [] if separator == "," else [f"{SEPARATORS[separator]}-separated"]
    detected += [] if encoding.startswith("utf-8") else [f"encoded as {encoding}"]
    renamed = [f"{name} = '{column}'" for name, column in found.items() if name != column]
    notes = [f"{path.name}: {' and '.join(detected)}"] if detected else []
    notes += [f"{path.name}: read {', '.join(renamed)}"] if renamed else []
    return Table(path, rows, found, tuple(notes), unread)


def _decoded(path: Path) -> tuple[str, str]:
    """Returns the text of a table, and its encoding."""
    content = _bytes_of(path)
    for mark, what in _OTHER_FORMATS.items():
        if content.startswith(mark):
            raise DataError(f"{path}: is {what}, not a table in text; save it as CSV (UTF-8)")
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _decode(path, content, encoding), encoding
    zeros = content[:200].count(0)
    if zeros > len(content[:200]) // 4:  # UTF-16 without a mark: every second byte of Latin letters is zero
        encoding = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
        return _decode(path, content, encoding), encoding
    try:
        return content.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        try:
            return content.decode("cp1252"), "Windows-1252"
        except UnicodeDecodeError:
            return content.decode("latin-1"), "Latin-1"


def _decode(path: Path, content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a table in text ({error}); save it as CSV (UTF-8)") from error


def _bytes_of(path: Path) -> bytes:
    with path.open("rb") as file:
        is_compressed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if is_compressed else path.open("rb") as file:
            content = file.read(MAX_TABLE_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip file is damaged ({error}); copy it again") from error
    if len(content) > MAX_TABLE_BYTES:
        raise DataError(f"{path}: more than {MAX_TABLE_BYTES:,} bytes; split the table")
    return content


def _header(text: str, columns: Columns) -> tuple[str, list[str], int]:
    """Returns the separator, the names in the header, and the number of lines before the rows.

    The separator is the one with which the header has the most required columns, then the most columns.
    """
    first, skipped = "", 0
    for line in io.StringIO(text):
        skipped += 1
        first = line.strip("\r\n")
        if first.strip() and not re.fullmatch(r"sep=.", first.strip(), re.IGNORECASE):  # Excel's own line
            break
    best: tuple[int, int, str, list[str]] = (-1, -1, ",", [])
    for separator in SEPARATORS:
        try:
            names = [name.strip() for name in next(csv.reader([first], delimiter=separator), [])]
        except csv.Error:
            continue
        letters = {_letters(name) for name in names}
        known = sum(any(_letters(n) in letters for n in (c, *o)) for c, o in columns.required.items())
        if (known, len(names)) > best[:2]:
            best = (known, len(names), separator, names)
    return best[2], best[3], skipped


def _rows(
    text: str, separator: str, skipped: int, *, num_columns: int, places: Mapping[str, int]
) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """Returns the wanted values of each row, and a message for each row of another length."""
    lines = io.StringIO(text, newline="")
    for _ in range(skipped):
        lines.readline()
    reader = csv.reader(lines, delimiter=separator, strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    ragged: list[str] = []
    try:
        for values in reader:
            line = reader.line_num + skipped
            if not any(values):
                continue
            if len(values) < num_columns or any(values[num_columns:]):
                ragged.append(f"line {line}: {num_columns} values expected, not {len(values)}")
                continue
            rows.append((line, {name: values[place].strip() for name, place in places.items()}))
    except csv.Error as error:
        ragged.append(f"line {reader.line_num + skipped}: {error}")
    return rows, ragged


def _find_columns(path: Path, header: Sequence[str], columns: Columns) -> dict[str, str]:
    """Returns the wanted name → the column of the file. Refuses a missing one, and a misspelt one."""
    by_letters: dict[str, str] = {}
    for column in header:
        by_letters.setdefault(_letters(column), column)
    found: dict[str, str] = {}
    for name, others in {**columns.required, **columns.optional}.items():
        column = next((by_letters[key] for n in (name, *others) if (key := _letters(n)) in by_letters), None)
        if column is not None and column not in found.values():
            if [_letters(each) for each in header].count(_letters(column)) > 1:
                raise DataError(f"{path}: several columns are named '{column}'; rename all but one")
            found[name] = column
    unread = [column for column in header if column and column not in found.values()]
    for name in (*columns.required, *(n for n in columns.optional if n in _NEVER_MISSPELT)):
        if name in found:
            continue
        near = difflib.get_close_matches(name, unread, n=1, cutoff=0.8)
        if near or name in columns.required:
            hint = f"; is it '{near[0]}'?" if near else ""
            raise DataError(f"{path}: no column '{name}'{hint} (columns: {', '.join(header) or 'none'})")
    return found


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())
