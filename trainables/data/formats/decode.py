"""The door to every image file: decodes it to 8-bit grey, or refuses it with the reason."""

# Imports inside functions: pydicom and tifffile take a third of a second, and most data sets need neither.
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.data.formats.content import Format, format_of, name_problem, read_head
from trainables.data.formats.greys import BLANK
from trainables.data.formats.limits import MAX_PIXELS
from trainables.data.formats.pictures import decode_picture
from trainables.data.records import ImageRecord
from trainables.errors import DataError
from trainables.shell import interpreter

DECODING_VERSION = 2
"""Raise this number when the same file would give other pixels. It is part of every fingerprint of images."""


@dataclass(frozen=True)
class DecodedImage:
    """An image, and what a person should know about it."""

    pixels: np.ndarray  # uint8 [H, W]
    format: Format
    greys: str  # how the greys were chosen, such as "window 550/1024 (LINEAR)"
    warnings: tuple[str, ...]  # such as "its header says hip, not chest"


@dataclass(frozen=True)
class FileDecoder:
    """Decodes the file of a record. Its errors name the file and the row of the table that lists the file."""

    rows: Mapping[str, str]  # image_id → e.g. "manifest.csv line 7"; may be empty

    def __call__(self, record: ImageRecord) -> np.ndarray:
        """Returns the image, uint8 [H, W]."""
        return self.image(record).pixels

    def image(self, record: ImageRecord) -> DecodedImage:
        """Returns the image with its warnings.

        Raises:
            DataError: the file cannot be used.
        """
        assert record.path is not None, "records of files have paths"
        try:
            return decode(record.path)
        except (ValueError, OSError) as error:
            raise DataError(f"{self.place(record)}: {error}") from error

    def place(self, record: ImageRecord) -> str:
        """Returns the name of a record's file, with the row of the table that lists it."""
        row = self.rows.get(record.image_id)
        return f"{record.image_id} ({row})" if row else record.image_id


def decode_grey(path: Path) -> np.ndarray:
    """Returns the image in a file as 8-bit grey, uint8 [H, W]. See `decode`."""
    return decode(path).pixels


def decode(path: Path) -> DecodedImage:
    """Returns the image in a PNG, JPEG, TIFF or DICOM file as 8-bit grey, with warnings.

    The content of the file decides its format. Images are turned upright by their orientation tag. Colour
    becomes luma (ITU-R 601), and transparency is seen on white. Greys deeper than 8 bits are scaled between
    two percentiles (`greys.windowed`). The header of a DICOM file sets its greys (`dicom.greys.grey_of`).

    Raises:
        ValueError: names why the file cannot be used: empty, cut, damaged, in another format, not a
            radiograph by its header, or outside the limits on pixels and shape.
        OSError: the file cannot be opened.
    """
    head = read_head(path)
    found = format_of(head)
    try:
        pixels, greys, problems = _decode(path, found, head)
    except Image.DecompressionBombError as error:  # Pillow refuses before our own limit is checked
        raise ValueError(f"too many pixels, the limit is {MAX_PIXELS:,}") from error
    except ValueError:
        raise
    except ModuleNotFoundError as error:
        mend = f"{interpreter()} -m pip install {error.name}"
        raise ValueError(f"the package {error.name} is missing, which decodes it: {mend}") from error
    except MemoryError as error:
        raise ValueError("the memory of this machine is too small to decode it") from error
    except Exception as error:  # decoders raise many errors on hostile bytes: SyntaxError, struct.error, …
        raise ValueError(f"cannot be decoded: {error or type(error).__name__}") from error
    if problem := name_problem(path, found):
        problems = [problem, *problems]
    if pixels.min() == pixels.max() and not any(problem.startswith(BLANK) for problem in problems):
        problems = [*problems, BLANK]
    return DecodedImage(pixels, found, greys, tuple(problems))


def _decode(path: Path, found: Format, head: bytes) -> tuple[np.ndarray, str, list[str]]:
    if found == "DICOM":
        from trainables.data.formats.dicom.decode import decode_dicom

        return decode_dicom(path)
    if found == "TIFF":
        from trainables.data.formats.tiff import decode_tiff

        return decode_tiff(path)
    return decode_picture(path, found, head)
