"""Recognises the format of an image by its first bytes. The name of the file decides nothing."""

from __future__ import annotations

import struct
from pathlib import Path, PurePath
from typing import Literal

Format = Literal["PNG", "JPEG", "TIFF", "DICOM"]

HEAD_BYTES = 256
"""The number of bytes that `format_of` needs."""
_FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".dcm": "DICOM",
    ".dicom": "DICOM",
}
IMAGE_SUFFIXES = tuple(_FORMAT_OF_SUFFIX)
"""The suffixes by which images are found in folders. DICOM files may also have another suffix or none."""
_FIRST_BYTES: tuple[tuple[bytes, Format], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
)
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def format_of(head: bytes) -> Format:
    """Returns the format of a file by its first `HEAD_BYTES` bytes.

    Raises:
        ValueError: the file is empty, a git-lfs pointer, or in none of the formats.
    """
    if not head:
        raise ValueError("the file is empty (0 bytes)")
    if head.startswith(_LFS_POINTER):
        raise ValueError(
            "is a git-lfs pointer, not the image itself; download the image: "
            "run 'git lfs pull' in the repository of the file"
        )
    if head[128:132] == b"DICM":  # checked first: the 128 bytes before it may look like another format
        return "DICOM"
    for first_bytes, name in _FIRST_BYTES:
        if head.startswith(first_bytes):
            return name
    if _is_dicom_without_preamble(head):
        return "DICOM"
    raise ValueError("not a PNG, JPEG, TIFF or DICOM image")


def is_dicom(path: Path) -> bool:
    """Returns whether a file is a DICOM file by its content. An unreadable file is not."""
    return _format_or_none(path) == "DICOM"


def is_image(path: Path) -> bool:
    """Returns whether a file is an image by its content. The directory file of a DICOM disc is not."""
    return path.name != "DICOMDIR" and _format_or_none(path) is not None


def named_as_image(name: str) -> bool | None:
    """Returns whether the suffix of a file says that it is an image, or None if it has no suffix.

    DICOM files are often named by their UID, whose last number is no suffix.
    """
    suffix = PurePath(name).suffix.lower()
    return suffix in IMAGE_SUFFIXES if suffix and not suffix[1:].isdecimal() else None


def _format_or_none(path: Path) -> Format | None:
    try:
        return format_of(read_head(path))
    except (ValueError, OSError):
        return None


def read_head(path: Path) -> bytes:
    """Returns the first `HEAD_BYTES` bytes of a file."""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def name_problem(path: Path, found: Format) -> str | None:
    """Returns a warning if the suffix of a file names another format than its content, else None."""
    named = _FORMAT_OF_SUFFIX.get(path.suffix.lower())
    if named in (None, found):
        return None
    return f"its name says {named}, but its content is {found}; it was read as {found}"


def _is_dicom_without_preamble(head: bytes) -> bool:
    """Returns whether a file begins with a data element of group 0002 or 0008, as old DICOM files do."""
    if len(head) < 8:
        return False
    is_explicit = head[4:6].isalpha() and head[4:6].isupper()
    little, big = (struct.unpack(order + "H", head[:2])[0] for order in "<>")
    if little in (0x0002, 0x0008):
        return is_explicit or struct.unpack("<I", head[4:8])[0] < 2**16
    return big in (0x0002, 0x0008) and is_explicit
