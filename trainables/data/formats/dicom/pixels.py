"""Reads the stored values of a DICOM image as levels: numbers from 0, whatever their sign and bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pydicom
from pydicom.encaps import get_frame
from pydicom.uid import ExplicitVRBigEndian, RLELossless

from trainables.data.formats.dicom.codecs import NATIVE, decompress
from trainables.data.formats.dicom.header import Header


@dataclass(frozen=True)
class StoredPixels:
    """The values of an image. The stored value of a pixel is `lowest + levels[y, x]`."""

    levels: np.ndarray  # uint8 or uint16 [H, W]
    lowest: int
    num_levels: int

    def values(self) -> np.ndarray:
        """Returns the stored value of every level, float64 [num_levels]."""
        return self.lowest + np.arange(self.num_levels, dtype=np.float64)


@dataclass(frozen=True)
class Frame:
    """The bytes of the pixels, as they are in the file."""

    content: bytes
    is_swapped: bool  # 8-bit values in big-endian words of 16 bits


def read_frame(dataset: pydicom.Dataset, header: Header) -> Frame:
    """Returns the bytes of the single frame of a data set.

    Raises:
        ValueError: the pixels are empty or damaged.
    """
    element = dataset["PixelData"]
    if not element.value:
        raise ValueError("holds no pixels (Pixel Data is empty)")
    if header.transfer_syntax in NATIVE:
        is_swapped = header.transfer_syntax == ExplicitVRBigEndian and element.VR == "OW"
        return Frame(bytes(element.value), is_swapped)
    try:
        return Frame(get_frame(element.value, 0, number_of_frames=1), is_swapped=False)
    except Exception as error:
        raise ValueError("its compressed pixels are damaged or cut") from error


def stored_pixels(frame: Frame, header: Header) -> StoredPixels:
    """Returns the stored values of the pixels. Unused bits, which may hold an overlay, are dropped.

    Raises:
        ValueError: the pixels are cut, or cannot be decompressed.
    """
    allocated, stored = header.bits_allocated, header.bits_stored
    assert header.rows, "`check_header` comes first"
    assert header.columns
    assert allocated
    assert stored
    if header.transfer_syntax in NATIVE:
        raw = _native(frame, header, shape=(header.rows, header.columns), allocated=allocated)
    else:
        raw = decompress(
            frame.content, header.transfer_syntax, rows=header.rows, columns=header.columns, bits=allocated
        )
    is_by_codec = header.transfer_syntax not in (*NATIVE, RLELossless)
    if is_by_codec and raw.dtype.kind == "u" and not header.is_signed:
        return StoredPixels(raw, 0, 2 ** (8 * raw.dtype.itemsize))  # a codec leaves no unused bits
    levels = raw.view(f"{raw.dtype.byteorder}u{raw.dtype.itemsize}").astype(f"u{raw.dtype.itemsize}")
    stored = min(stored, 8 * levels.dtype.itemsize)
    if header.high_bit is not None and not is_by_codec:
        levels >>= header.high_bit + 1 - stored
    levels &= 2**stored - 1
    if header.is_signed:  # two's complement → offset binary
        levels ^= 2 ** (stored - 1)
    return StoredPixels(levels, -(2 ** (stored - 1)) if header.is_signed else 0, 2**stored)


def _native(frame: Frame, header: Header, *, shape: tuple[int, int], allocated: int) -> np.ndarray:
    order = ">" if header.transfer_syntax == ExplicitVRBigEndian else "<"
    dtype = np.dtype(f"{order}u{allocated // 8}")
    expected, content = shape[0] * shape[1] * dtype.itemsize, frame.content
    if frame.is_swapped and allocated == 8:
        content = np.frombuffer(content[: len(content) // 2 * 2], ">u2").astype("<u2").tobytes()
    if len(content) < expected:
        raise ValueError(f"its pixels are cut: {len(content):,} of {expected:,} bytes")
    if len(content) >= 2 * expected:
        raise ValueError(f"its header says {expected:,} bytes of pixels, but it has {len(content):,}")
    return np.frombuffer(content, dtype, count=shape[0] * shape[1]).reshape(shape)
