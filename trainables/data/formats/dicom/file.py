"""Opens DICOM files with pydicom, and reads single values of their headers."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom import config
from pydicom.dataset import FileDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian

from trainables.data.formats.quiet import quietly

MAX_INFLATED_BYTES = 256 * 2**20
"""Limit on a deflated file. One of 128 MiB could grow to 128 GiB."""

# pydicom's messages quote values of the header, and a value may name the patient.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
config.settings.reading_validation_mode = config.IGNORE


@contextmanager
def opened(path: Path, *, with_pixels: bool) -> Iterator[FileDataset]:
    """Yields the data set of a DICOM file. Other threads wait, so leave the block soon.

    A file without preamble is read as implicit little endian, unless its first element shows otherwise.

    Raises:
        ValueError: the header is damaged, or the file is cut. The message quotes no value of the header.
    """
    with path.open("rb") as file, quietly():
        _check_inflated_size(file)
        try:
            dataset = pydicom.dcmread(file, force=True, stop_before_pixels=not with_pixels)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # pydicom raises many kinds of error on hostile bytes
            raise ValueError(f"its DICOM header is damaged ({type(error).__name__})") from error
        if not dataset:  # pydicom returns an empty data set if the file ends inside compressed pixels
            raise ValueError("the DICOM file is cut: it ends inside its header or its pixels")
        yield dataset


def _check_inflated_size(file: BinaryIO) -> None:
    """Raises ValueError if a deflated file would need too much memory. Returns to the start of the file."""
    head = file.read(1024)
    if DeflatedExplicitVRLittleEndian.encode() in head:
        file.seek(144 + int.from_bytes(head[140:144], "little"))  # the file meta begins with its length
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            size = len(inflater.decompress(file.read(), MAX_INFLATED_BYTES))
        except zlib.error as error:
            raise ValueError("its deflated content is damaged") from error
        if size >= MAX_INFLATED_BYTES and not inflater.eof:
            raise ValueError(f"expands to more than {MAX_INFLATED_BYTES:,} bytes")
    file.seek(0)


def values_of(dataset: pydicom.Dataset, keyword: str) -> list[object]:
    """Returns the values of an element; [] if it is missing, empty or damaged."""
    try:
        value = dataset.get(keyword)
    except Exception:  # the conversion of a damaged value raises many kinds of error
        return []
    if isinstance(value, MultiValue | Sequence | list | tuple):
        return list(value)
    return [] if value is None or value == "" else [value]


def text_of(dataset: pydicom.Dataset, keyword: str) -> str:
    """Returns the first value of an element as text without outer blanks, or ''."""
    values = values_of(dataset, keyword)
    return str(values[0]).strip() if values else ""


def numbers_of(dataset: pydicom.Dataset, keyword: str) -> list[float | None]:
    """Returns the values of an element as finite numbers, and None for a value that is not one."""
    return [_number(value) for value in values_of(dataset, keyword)]


def number_of(dataset: pydicom.Dataset, keyword: str) -> float | None:
    """Returns the first value of an element as a finite number, or None."""
    numbers = numbers_of(dataset, keyword)
    return numbers[0] if numbers else None


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def item_of(dataset: pydicom.Dataset, keyword: str) -> pydicom.Dataset | None:
    """Returns the first item of a sequence, or None."""
    items = [value for value in values_of(dataset, keyword) if isinstance(value, pydicom.Dataset)]
    return items[0] if items else None
