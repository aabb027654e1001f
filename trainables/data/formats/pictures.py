"""Decodes PNG and JPEG files with Pillow, and with imagecodecs where Pillow would drop bits."""

# Imports inside functions: imagecodecs takes a tenth of a second, and few files need it.
from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from trainables.data.formats.content import Format
from trainables.data.formats.greys import WINDOW, luma, on_white, upright, windowed
from trainables.data.formats.limits import check_shape
from trainables.data.formats.quiet import quietly

AS_STORED = "8 bits as stored"
_BIT_DEPTH = 24
"""The place of the bit depth in a PNG file (PNG specification, 11.2.2)."""
_MAY_HOLD_ORIENTATION = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}


def decode_picture(path: Path, found: Format, head: bytes) -> tuple[np.ndarray, str, list[str]]:
    """Returns the image of a PNG or JPEG file uint8 [H, W], how its greys were chosen, and warnings."""
    warnings: list[str] = []
    with quietly():  # Pillow warns of damaged tags, and of sizes that are refused below
        image = Image.open(path, formats=(found,))
    with image:
        check_shape(*image.size)  # only the header has been read
        image.load()
        if found == "PNG" and head[_BIT_DEPTH] == 16 and image.mode != "I;16":
            pixels, choice = deep_grey(_all_bits(path, image.size)), WINDOW
        else:
            pixels, choice = grey_of(image)
        return upright(pixels, _orientation(image, warnings)), choice, warnings


def grey_of(image: Image.Image) -> tuple[np.ndarray, str]:
    """Returns an image of Pillow as grey uint8 [H, W], and how its greys were chosen."""
    transparent = image.info.get("transparency")
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if not isinstance(transparent, int):
            return windowed(values.astype(values.dtype.newbyteorder("="))), WINDOW
        is_visible = values != transparent
        return on_white(windowed(values, is_visible), is_visible), WINDOW
    if "A" in image.mode or "a" in image.mode or transparent is not None:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("L")), AS_STORED


def deep_grey(values: np.ndarray, *, has_alpha: bool | None = None) -> np.ndarray:
    """Returns deep pixels [H, W] or [H, W, channels] as grey uint8 [H, W], as seen on white.

    Args:
        values: grey, grey + alpha, RGB or RGBA.
        has_alpha: whether the last channel is opacity; None = by the number of channels.
    """
    if values.ndim == 2:
        return windowed(values)
    if has_alpha is None:
        has_alpha = values.shape[-1] in (2, 4)
    colours = values[..., :-1] if has_alpha else values
    grey = luma(colours) if colours.shape[-1] == 3 else colours[..., 0]
    if not has_alpha:
        return windowed(grey)
    opacity = values[..., -1] / np.iinfo(values.dtype).max
    return on_white(windowed(grey, opacity > 0), opacity)


def _all_bits(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Returns a 16-bit PNG with several channels, uint16 [H, W, channels]. Pillow would drop bits."""
    import imagecodecs

    values = imagecodecs.png_decode(path.read_bytes())
    if values.shape[:2] != size[::-1] or values.dtype != np.uint16:
        raise ValueError("its header contradicts its pixels")
    return values


def _orientation(image: Image.Image, warnings: list[str]) -> int | None:
    """Returns the orientation tag of a loaded image. A damaged tag is ignored, with a warning."""
    if not _MAY_HOLD_ORIENTATION & image.info.keys():
        return None
    try:
        with quietly():
            orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a damaged tag raises many kinds of error; the pixels are good
        warnings.append("its EXIF data is damaged, so it was not turned")
        return None
    return orientation if isinstance(orientation, int) else None
