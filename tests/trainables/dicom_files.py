"""Writes small DICOM files for tests: a chest radiograph, unless a tag says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    generate_uid,
)

PATIENT = "Müller-4711"
RAMP = np.tile(np.arange(0, 4096, 64, dtype=np.uint16), (48, 1))
"""Twelve bits, 48 × 64, darker on the left."""


def write_dicom(
    path: Path,
    pixels: np.ndarray = RAMP,
    *,
    syntax: UID = ExplicitVRLittleEndian,
    compressed: bytes | None = None,
    **tags: Any,
) -> Path:
    """Writes pixels with a header; a tag that is None is left out.

    Args:
        path: the file.
        pixels: [H, W], 8 or 16 bits, signed or not.
        syntax: the transfer syntax.
        compressed: the frame, for a compressed transfer syntax.
        tags: keyword → value, instead of the usual ones.
    """
    bits = 8 * pixels.dtype.itemsize
    stored = 12 if pixels.dtype == np.uint16 else bits
    usual: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": generate_uid(),
        "Modality": "DX",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "PatientID": PATIENT,
        "PatientName": "Müller^Jan",
        "PatientBirthDate": "19700101",
        "PatientSex": "F",
        "PatientAge": "043Y",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": stored,
        "HighBit": tags.get("BitsStored", stored) - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }
    dataset = Dataset()
    for keyword, value in (usual | tags).items():
        if value is not None:
            setattr(dataset, keyword, value)
    words = np.frombuffer(pixels.tobytes(), "<u2")  # OW: in big endian, bytes are swapped in pairs
    content = words.astype(">u2") if syntax == ExplicitVRBigEndian else words
    dataset.add_new("PixelData", "OW", content.tobytes())
    if compressed is not None:
        dataset.PixelData = encapsulate([compressed])
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", generate_uid())
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


def lookup_table(entries: np.ndarray, *, first: int, bits: int) -> Dataset:
    """Returns the item of a lookup table sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(entries), first, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return item
