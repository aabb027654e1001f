"""Decodes a DICOM file: header, refusals, pixels, greys."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainables.data.formats.dicom.file import opened
from trainables.data.formats.dicom.greys import grey_of
from trainables.data.formats.dicom.header import read_header
from trainables.data.formats.dicom.pixels import read_frame, stored_pixels
from trainables.data.formats.dicom.rules import check_header, warnings_of


def decode_dicom(path: Path) -> tuple[np.ndarray, str, list[str]]:
    """Returns the image of a DICOM file uint8 [H, W], how its greys were chosen, and warnings.

    Raises:
        ValueError: the file is damaged, or is no single grey radiograph.
    """
    with opened(path, with_pixels=True) as dataset:
        header = read_header(dataset)
        check_header(header)
        frame = read_frame(dataset, header)
    pixels, choice, warnings = grey_of(stored_pixels(frame, header), header)
    return pixels, choice, [*warnings_of(header), *warnings]
