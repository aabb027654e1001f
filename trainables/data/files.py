"""Files of a data set: paths that cannot leave its root, decoding that no broken image can harm."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from trainables.data.records import ImageRecord
from trainables.errors import DataError

MAX_FILE_BYTES = 128 * 2**20
MAX_PIXELS = 50_000_000
"""Refused before decoding. Far above any radiograph (about 18 MP); Pillow's own limit stays set behind it."""
MIN_SIDE = 16
MAX_ASPECT = 8
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_LISTED = 20


def open_root(root: Path | None, *, dataset: str) -> Path:
    """Returns the real path of a data set's folder.

    Raises:
        DataError: not set, missing, or not a folder.
    """
    if root is None:
        raise DataError(
            f"data.root: not set, and data set '{dataset}' is read from a folder; "
            f"say where it is: --set data.root=FOLDER"
        )
    folder = root.expanduser()
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"data.root: {root} {problem}; say where '{dataset}' is: --set data.root=FOLDER")
    return folder.resolve()


def confined(name: str, *, root: Path) -> Path:
    """Returns the real path of a file named in a table, which must be a regular file inside `root`.

    Args:
        name: relative to `root`, with forward slashes.
        root: a real path (`open_root`).

    Raises:
        ValueError: says what is wrong with the name. Nothing outside `root` has been opened.
    """
    problem = _suspicious(name)
    if problem:
        raise ValueError(f"{name!r} {problem}; paths are relative to data.root and stay inside it")
    return regular_file(root / name, root=root)


def regular_file(path: Path, *, root: Path) -> Path:
    """Returns `path` with links resolved, if that is a regular file of a sane size inside `root`.

    Raises:
        ValueError: says what is wrong with it.
    """
    real = Path(os.path.realpath(path))
    shown = path.relative_to(root).as_posix()
    if not real.is_relative_to(root):
        raise ValueError(f"{shown!r} is a link that leads out of data.root")
    try:
        status = real.stat()
    except OSError as error:
        raise ValueError(f"{shown!r} cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for ever
        raise ValueError(f"{shown!r} is not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise ValueError(f"{shown!r} has {status.st_size:,} bytes, the limit is {MAX_FILE_BYTES:,}")
    return real


def _suspicious(name: str) -> str | None:
    if not name.strip():
        return "is empty"
    if "\0" in name:
        return "holds a NUL character"
    if "://" in name:
        return "is a URL"
    if name.startswith("~"):
        return "starts with '~'"
    if "\\" in name:
        return "holds a backslash"
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return "is absolute"
    if ".." in PurePosixPath(name).parts:
        return "holds '..'"
    return None


@dataclass(frozen=True)
class FileDecoder:
    """Decodes the records of files; its errors name the file and the table row that lists it."""

    rows: Mapping[str, str]  # image_id → e.g. "manifest.csv line 7"; may be empty

    def __call__(self, record: ImageRecord) -> np.ndarray:
        """Returns the image, uint8 [H, W].

        Raises:
            DataError: as `decode_grey`, with the place.
        """
        assert record.path is not None, "records of files have paths"
        try:
            return decode_grey(record.path)
        except (ValueError, OSError) as error:
            row = self.rows.get(record.image_id)
            place = f"{record.image_id} ({row})" if row else record.image_id
            raise DataError(f"{place}: {error}") from error


def decode_grey(path: Path) -> np.ndarray:
    """Returns an image file as 8-bit grey, uint8 [H, W].

    Colour becomes luma (ITU-R 601); transparency is laid on black; deeper greys (16-bit, integer, float) are
    windowed from their own smallest to their own largest value, because a plain conversion saturates nearly
    all of them to white.

    Raises:
        ValueError: empty, no PNG or JPEG, truncated, corrupt, or outside the limits on pixels and shape.
    """
    if path.stat().st_size == 0:
        raise ValueError("the file is empty (0 bytes)")
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            _check_shape(*image.size)  # the header alone has been read
            image.load()
            return _grey(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"too many pixels, the limit is {MAX_PIXELS:,}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError("not a PNG or JPEG image") from error
    except (ValueError, MemoryError):
        raise
    except (
        Exception
    ) as error:  # decoders raise nearly anything on hostile bytes: OSError, SyntaxError, struct.error, …
        raise ValueError(f"cannot be decoded: {error}") from error


@contextmanager
def bombs_are_errors() -> Iterator[None]:
    """Turns Pillow's warning about huge images into its error. Not thread-safe: enter it once, outside."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _check_shape(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} × {height} is too many pixels, the limit is {MAX_PIXELS:,}")
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(
            f"{width} × {height} is no radiograph: "
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
        raise ValueError("holds infinite or missing values")
    scale = 255 / (high - low) if high > low else 0.0
    return np.rint((values - low) * scale).astype(np.uint8)


def refuse(problems: Sequence[str], *, about: str) -> None:
    """Raises one DataError that lists the problems (the first 20), or does nothing if there are none."""
    if problems:
        listed = [f"  {problem}" for problem in problems[:MAX_LISTED]]
        if len(problems) > MAX_LISTED:
            listed.append(f"  … and {len(problems) - MAX_LISTED} more")
        raise DataError("\n".join([f"{about}: {len(problems)} unusable", *listed]))
