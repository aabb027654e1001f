"""Decodes an image file to 8-bit grey, and refuses broken and hostile files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.data.records import ImageRecord
from trainables.errors import DataError

MAX_PIXELS = 50_000_000
"""Larger images are refused before decoding. Radiographs have up to about 18 MP. Pillow's limit remains."""
MIN_SIDE = 16
MAX_ASPECT = 8
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class FileDecoder:
    """Decodes the file of a record. Its errors name the file and the row of the table that lists the file."""

    rows: Mapping[str, str]  # image_id → e.g. "manifest.csv line 7"; may be empty

    def __call__(self, record: ImageRecord) -> np.ndarray:
        """Returns the image, uint8 [H, W]."""
        assert record.path is not None, "records of files have paths"
        try:
            return decode_grey(record.path)
        except (ValueError, OSError) as error:
            row = self.rows.get(record.image_id)
            place = f"{record.image_id} ({row})" if row else record.image_id
            raise DataError(f"{place}: {error}") from error


def decode_grey(path: Path) -> np.ndarray:
    """Returns the image in a file as 8-bit grey, uint8 [H, W].

    Colour becomes luma (ITU-R 601), and transparency becomes black. Greys deeper than 8 bits (16-bit,
    integer, float) are scaled from the smallest to the largest value of the image, because a plain
    conversion would turn nearly all of them white.

    Raises:
        ValueError: the file is empty, truncated, corrupt, not a PNG or JPEG, or outside the limits on pixels
            and shape.
    """
    if path.stat().st_size == 0:
        raise ValueError("the file is empty (0 bytes)")
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            _check_shape(*image.size)  # only the header has been read
            image.load()
            return _grey(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"too many pixels, the limit is {MAX_PIXELS:,}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError("not a PNG or JPEG image") from error
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # decoders raise many errors on hostile bytes: SyntaxError, struct.error, …
        raise ValueError(f"cannot be decoded: {error}") from error


@contextmanager
def bombs_are_errors() -> Iterator[None]:
    """Turns Pillow's warning about huge images into an error. Not thread-safe: use before threads start."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _check_shape(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} × {height} is too many pixels, the limit is {MAX_PIXELS:,}")
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(
            f"{width} × {height} is not a radiograph: "
            f"sides of at least {MIN_SIDE} px and at most {MAX_ASPECT}:1 are expected"
        )


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        return _window(np.asarray(image))
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba)
    return np.array(image.convert("L"))


def _window(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float32)
    low, high = values.min(), values.max()
    if not np.isfinite(high - low):
        raise ValueError("contains infinite or missing values")
    scale = 255 / (high - low) if high > low else 0.0
    return np.rint((values - low) * scale).astype(np.uint8)
