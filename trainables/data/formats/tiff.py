"""Decodes TIFF files of up to 8 bits with Pillow, and deeper ones with tifffile, which keeps all bits."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from trainables.data.formats.greys import WINDOW, upright, windowed
from trainables.data.formats.limits import check_shape
from trainables.data.formats.pictures import deep_grey, grey_of
from trainables.data.formats.quiet import quietly

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # serious errors are raised

_ORIENTATION = 274
_GREY, _GREY_INVERTED, _RGB = 1, 0, 2  # PhotometricInterpretation (TIFF 6.0)
_ALPHA = (1, 2)  # ExtraSamples: associated, unassociated


def decode_tiff(path: Path) -> tuple[np.ndarray, str, list[str]]:
    """Returns the image of a TIFF file uint8 [H, W], how its greys were chosen, and warnings.

    Raises:
        ValueError: the file has several pages or a volume, or deep pixels that are neither grey nor RGB.
    """
    with path.open("rb") as file, tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        check_shape(page.imagewidth, page.imagelength)
        if _has_second_page(tiff) or page.imagedepth != 1:
            raise ValueError("has several pages, but one image per file is expected")
        if page.bitspersample > 8 or page.sampleformat != tifffile.SAMPLEFORMAT.UINT:
            return _deep(page), WINDOW, []
        file.seek(0)
        with quietly():  # Pillow warns of damaged tags
            # By a path, Pillow 13 would map the file, and scramble images that lie on their side.
            image = Image.open(file, formats=("TIFF",))
        check_shape(*image.size)
        image.load()  # turns it by its orientation tag
        return *grey_of(image), []


def _has_second_page(tiff: tifffile.TiffFile) -> bool:
    try:
        return tiff.pages[1] is not None
    except IndexError:
        return False


def _deep(page: tifffile.TiffPage) -> np.ndarray:
    if page.photometric not in (_GREY, _GREY_INVERTED, _RGB):
        kind = tifffile.PHOTOMETRIC(page.photometric).name
        raise ValueError(f"is a deep TIFF image with {kind} pixels; grey or RGB can be read")
    values = page.asarray(maxworkers=1)
    if page.axes.startswith("S"):  # one plane per channel
        values = np.moveaxis(values, 0, -1)
    if values.shape[:2] != (page.imagelength, page.imagewidth):
        raise ValueError("its header contradicts its pixels")
    values = values.astype(values.dtype.newbyteorder("="))
    num_channels = 3 if page.photometric == _RGB else 1
    has_alpha = bool(page.extrasamples) and page.extrasamples[0] in _ALPHA
    if values.ndim == 3:
        values = values[..., : num_channels + has_alpha]  # other channels say nothing about the picture
        if values.shape[-1] == 1:
            values = values[..., 0]
    if values.dtype.kind == "i" and values.dtype.itemsize <= 2:
        values = (values.astype(np.int32) - int(values.min())).astype(np.uint16)
    if values.ndim == 3 and values.dtype != np.uint16:
        raise ValueError(f"has several channels of {values.dtype}; channels of 8 or 16 bits can be read")
    if page.photometric == _GREY_INVERTED:
        greys = values if values.ndim == 2 else values[..., 0]
        greys[...] = greys.max() - greys
    grey = deep_grey(values, has_alpha=has_alpha) if values.ndim == 3 else windowed(values)
    tag = page.tags.get(_ORIENTATION)
    return upright(grey, tag.value if tag is not None else None)
