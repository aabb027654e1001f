"""The part of a DICOM header that decides how its pixels are read. It holds nothing about the patient."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pydicom
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from trainables.data.formats.dicom.file import item_of, number_of, numbers_of, text_of

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
MAX_WORD = 40
"""Longest text of the header that is shown in a message."""


@dataclass(frozen=True)
class LookupTable:
    """A modality or VOI lookup table: the value x becomes `entries[x - first]`."""

    first: int
    entries: np.ndarray  # float64 [N]
    maximum: float  # the largest output that its bits allow


@dataclass(frozen=True)
class Header:
    """What a reader must know before it reads the pixels. Missing numbers are None."""

    modality: str  # upper case, '' if missing
    sop_class: str  # its name in the standard, '' if missing
    body_part: str  # '' if missing
    is_chest: bool | None  # None if the header does not say
    intent: str  # "FOR PRESENTATION", "FOR PROCESSING" or ''
    transfer_syntax: UID
    pixel_keyword: str | None
    rows: int | None
    columns: int | None
    num_frames: int
    samples_per_pixel: int
    photometric: str  # such as "MONOCHROME2", '' if missing
    bits_allocated: int | None
    bits_stored: int | None
    high_bit: int | None
    is_signed: bool
    slope: float
    intercept: float
    modality_lut: LookupTable | None
    voi_lut: LookupTable | None
    windows: tuple[tuple[float | None, float | None], ...]  # (centre, width)
    window_function: str
    padding: tuple[int, int] | None  # the smallest and the largest padding value, as stored


def read_header(dataset: pydicom.Dataset) -> Header:
    """Returns the part of a header that decides how the pixels are read.

    Raises:
        ValueError: a lookup table is damaged.
    """
    bits_allocated = _count(dataset, "BitsAllocated")
    bits_stored = _count(dataset, "BitsStored")
    if bits_stored is None:
        bits_stored = bits_allocated
    is_signed = number_of(dataset, "PixelRepresentation") == 1
    slope, intercept = number_of(dataset, "RescaleSlope"), number_of(dataset, "RescaleIntercept")
    body_part = shown(text_of(dataset, "BodyPartExamined"))
    meta = getattr(dataset, "file_meta", pydicom.Dataset())
    sop_class = text_of(dataset, "SOPClassUID") or text_of(meta, "MediaStorageSOPClassUID")
    return Header(
        modality=shown(text_of(dataset, "Modality")).upper(),
        sop_class=shown(UID(sop_class).name) if sop_class else "",
        body_part=body_part,
        is_chest=is_chest(dataset),
        intent=text_of(dataset, "PresentationIntentType").upper(),
        transfer_syntax=_transfer_syntax(dataset, text_of(meta, "TransferSyntaxUID")),
        pixel_keyword=next((name for name in PIXEL_KEYWORDS if name in dataset), None),
        rows=_count(dataset, "Rows"),
        columns=_count(dataset, "Columns"),
        num_frames=1 if (frames := _count(dataset, "NumberOfFrames")) is None else frames,
        samples_per_pixel=1 if (samples := _count(dataset, "SamplesPerPixel")) is None else samples,
        photometric=shown(text_of(dataset, "PhotometricInterpretation")).upper(),
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=_count(dataset, "HighBit"),
        is_signed=is_signed,
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
        modality_lut=_lookup_table(dataset, "ModalityLUTSequence", is_signed=is_signed),
        voi_lut=_lookup_table(dataset, "VOILUTSequence", is_signed=is_signed),
        windows=tuple(
            zip(numbers_of(dataset, "WindowCenter"), numbers_of(dataset, "WindowWidth"), strict=False)
        ),
        window_function=shown(text_of(dataset, "VOILUTFunction")).upper() or "LINEAR",
        padding=_padding(dataset),
    )


def shown(text: str) -> str:
    """Returns a text of the header in a form for messages: printable, short, on one line."""
    return re.sub(r"[^\w /.()-]+", " ", text).strip()[:MAX_WORD]


_CHEST = re.compile(r"chest|thora[xk]|t[oó]ra[xc](?!ic)|lung|pulmo|cxr", re.IGNORECASE)
_DESCRIPTIONS = ("ProtocolName", "SeriesDescription", "StudyDescription", "RequestedProcedureDescription")


def is_chest(dataset: pydicom.Dataset) -> bool | None:
    """Returns whether a header describes an image of the chest, or None if it does not say.

    The body part decides. If it is empty, a code of the region or a description may name the chest.
    """
    if body_part := text_of(dataset, "BodyPartExamined"):
        return _CHEST.search(body_part) is not None
    regions = [item_of(dataset, "AnatomicRegionSequence"), item_of(dataset, "ProcedureCodeSequence")]
    texts = [text_of(region, "CodeMeaning") for region in regions if region is not None]
    texts += [text_of(dataset, keyword) for keyword in _DESCRIPTIONS]
    return True if any(_CHEST.search(text) for text in texts) else None


def _count(dataset: pydicom.Dataset, keyword: str) -> int | None:
    number = number_of(dataset, keyword)
    return None if number is None or number != int(number) else int(number)


def _transfer_syntax(dataset: pydicom.Dataset, named: str) -> UID:
    if named:
        return UID(named)
    is_implicit, is_little_endian = dataset.original_encoding  # as pydicom found it
    if is_implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian


def _lookup_table(dataset: pydicom.Dataset, keyword: str, *, is_signed: bool) -> LookupTable | None:
    """Returns the first lookup table of a sequence (PS3.3 C.11.1.1 and C.11.2.1.1), or None without one."""
    item = item_of(dataset, keyword)
    if item is None:
        return None
    descriptor = numbers_of(item, "LUTDescriptor")
    if len(descriptor) != 3 or None in descriptor or "LUTData" not in item:
        raise ValueError(f"the lookup table in {keyword} is damaged")
    length, first, bits = (int(number) for number in descriptor if number is not None)
    length = length or 2**16
    if is_signed and first >= 2**15:  # stored as unsigned by many writers
        first -= 2**16
    data = item["LUTData"].value
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
        entries = np.frombuffer(data, np.uint8 if len(data) in (length, length + 1) else f"{order}u2")
    else:
        entries = np.atleast_1d(np.asarray(data, dtype=np.float64))
    if not 1 <= len(entries[:length]) == length:
        raise ValueError(f"the lookup table in {keyword} is cut: {len(entries):,} of {length:,} entries")
    entries = entries[:length].astype(np.float64)
    return LookupTable(first, entries, maximum=max(2.0**bits - 1, float(entries.max()), 1.0))


def _padding(dataset: pydicom.Dataset) -> tuple[int, int] | None:
    value, limit = _count(dataset, "PixelPaddingValue"), _count(dataset, "PixelPaddingRangeLimit")
    if value is None:
        return None
    ends = (value, value if limit is None else limit)
    return min(ends), max(ends)
