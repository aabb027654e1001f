"""Decides which DICOM objects are read as radiographs, read with a warning, or refused."""

from __future__ import annotations

from trainables.data.formats.dicom.header import Header
from trainables.data.formats.limits import check_shape

RADIOGRAPHS = ("CR", "DX", "DR", "RG")
"""Computed, digital and conventional radiography. Some devices write DR, which is not in the standard."""
REFUSED_MODALITIES = {
    "CT": "computed tomography",
    "MR": "magnetic resonance",
    "PT": "positron emission tomography",
    "NM": "nuclear medicine",
    "US": "ultrasound",
    "IVUS": "ultrasound in a vessel",
    "MG": "mammography",
    "XA": "angiography",
    "PX": "a panorama of the teeth",
    "IO": "an image of a tooth",
    "BMD": "bone density",
    "ES": "endoscopy",
    "GM": "microscopy",
    "SM": "slide microscopy",
    "XC": "photography",
    "OP": "photography of the eye",
    "OCT": "optical coherence tomography",
    "IVOCT": "optical coherence tomography",
    "OPT": "tomography of the eye",
    "ECG": "an electrocardiogram",
    "SEG": "a segmentation",
    "SR": "a report",
    "DOC": "a document",
    "PR": "a presentation state",
    "KO": "a selection of objects",
    "REG": "a registration",
    "RTIMAGE": "radiotherapy",
    "RTDOSE": "radiotherapy",
    "RTSTRUCT": "radiotherapy",
    "RTPLAN": "radiotherapy",
    "RTRECORD": "radiotherapy",
}
_MODALITY_OF_CLASS = {
    "Computed Radiography": "CR",
    "Digital X-Ray Image": "DX",
    "Digital Mammography": "MG",
    "Digital Intra-Oral": "IO",
    "CT ": "CT",
    "Enhanced CT ": "CT",
    "MR ": "MR",
    "Enhanced MR ": "MR",
    "Ultrasound": "US",
    "Nuclear Medicine": "NM",
    "Positron Emission": "PT",
    "X-Ray Angiographic": "XA",
}
"""Beginning of the name of a SOP class → modality, for headers without one."""


def check_header(header: Header) -> None:
    """Refuses all but single grey radiographs within the limits, before pixels are decoded.

    Raises:
        ValueError: names the reason.
    """
    modality = _modality(header)
    if header.pixel_keyword is None:
        what = modality or header.sop_class
        told = f" (its header says {what})" if what else ""
        raise ValueError(f"holds no image{told}, or the file is cut before the pixels")
    if modality in REFUSED_MODALITIES:
        raise ValueError(
            f"its header says {modality} ({REFUSED_MODALITIES[modality]}), not a radiograph (CR or DX)"
        )
    if header.pixel_keyword != "PixelData":
        raise ValueError("has pixels with decimals (Float Pixel Data), which no radiograph has")
    if header.samples_per_pixel != 1 or header.photometric in ("RGB", "PALETTE COLOR"):
        raise ValueError(f"is a colour image ({header.photometric or 'unknown'}), not a grey radiograph")
    if header.photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(
            "its header does not say whether large values are bright or dark "
            f"(Photometric Interpretation is {header.photometric or 'missing'})"
        )
    if header.num_frames != 1:
        raise ValueError(f"has {header.num_frames} frames, but one image per file is expected")
    if header.rows is None or header.columns is None:
        raise ValueError("its header does not give the size of the image (Rows, Columns)")
    check_shape(header.columns, header.rows)
    _check_bits(header)
    if header.slope == 0:
        raise ValueError("its Rescale Slope is 0, which makes every pixel equal")


def _check_bits(header: Header) -> None:
    allocated, stored = header.bits_allocated, header.bits_stored
    if allocated not in (8, 16):
        raise ValueError(f"has {allocated or 'an unknown number of'} bits per pixel; 8 or 16 can be read")
    if stored is None or not 1 <= stored <= allocated:
        raise ValueError(f"its header contradicts itself: {stored} bits stored in {allocated}")
    if header.high_bit is not None and not stored - 1 <= header.high_bit < allocated:
        raise ValueError(
            f"its header contradicts itself: {stored} bits stored below bit {header.high_bit} of {allocated}"
        )


def warnings_of(header: Header) -> list[str]:
    """Returns the reasons why a readable image may not be a chest radiograph, one sentence each."""
    problems: list[str] = []
    modality = _modality(header)
    if modality not in RADIOGRAPHS:
        said = f"says modality {modality}" if modality else "names no modality"
        problems.append(f"its header {said}, not a radiograph (CR or DX)")
    if header.is_chest is False:
        problems.append(f"its header says {header.body_part.lower()}, not chest")
    elif header.is_chest is None:
        problems.append("its header does not name the body part")
    if header.intent == "FOR PROCESSING":
        problems.append("its header says 'for processing': these are raw values, not the image for a reader")
    return problems


def _modality(header: Header) -> str:
    if header.modality:
        return header.modality
    known = (code for start, code in _MODALITY_OF_CLASS.items() if header.sop_class.startswith(start))
    return next(known, "")
