"""Montgomery and Shenzhen, the tuberculosis sets of the National Library of Medicine (Jaeger et al. 2014)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from trainables.data.sets.description import Files, Row, SetDescription
from trainables.data.sets.folder import SetFolder

LABELS = {"0": "Normal", "1": "Tuberculosis"}
MONTGOMERY_FILES = Files(r"CXR_png/MCUCXR_(?P<patient>\d+)_(?P<label>[01])\.png")
SHENZHEN_FILES = Files(r"CXR_png/CHNCXR_\d+_(?P<label>[01])\.png")
SAME_PATIENT: Mapping[str, str] = {"0117": "0113", "0166": "0162", "0170": "0162"}
"""Number of an image of Montgomery → the number of an earlier image of the same patient."""
_SEX = re.compile(r"Sex:\s*(\w+)", re.IGNORECASE)
_AGE = re.compile(r"Age:\s*(\d+\s*[a-z]*)", re.IGNORECASE)
_SEX_AND_AGE = re.compile(r"\s*(?P<sex>[a-z]+)\W*(?P<age>\d+\s*[a-z]*)?", re.IGNORECASE)


def montgomery_rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each image, with sex and age such as `Patient's Sex: F` and `Patient's Age: 027Y`."""
    for row in MONTGOMERY_FILES(folder):
        reading = _reading(row, folder)
        sex, age = _SEX.search(reading), _AGE.search(reading)
        patient = row.patient or ""
        yield replace(
            row,
            patient=SAME_PATIENT.get(patient, patient),
            sex=sex[1] if sex else None,
            age=age[1] if age else None,
        )


def shenzhen_rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each image, with sex and age such as `male 45yrs`, `femal 3 months`, `female24yrs`."""
    for row in SHENZHEN_FILES(folder):
        match = _SEX_AND_AGE.match(_reading(row, folder))
        yield replace(row, sex=match["sex"], age=match["age"]) if match else row


def _reading(row: Row, folder: SetFolder) -> str:
    """Returns the clinical reading of an image, or an empty text."""
    return folder.read_text(f"ClinicalReadings/{PurePosixPath(row.path).stem}.txt") or ""


_LICENCE = "stated on the page of the data set; its authors ask for the citation"
_URL = "https://lhncbc.nlm.nih.gov/publication/pub9931"
_CITATION = "Jaeger et al. 2014, doi 10.3978/j.issn.2223-4292.2014.11.20"

MONTGOMERY = SetDescription(
    name="montgomery",
    title="Montgomery County tuberculosis set",
    rows=montgomery_rows,
    labels=LABELS,
    folders=("MontgomerySet", "NLM-MontgomeryCXRSet", "NLM-MontgomeryCXRSet/MontgomerySet"),
    contains=("CXR_png",),
    words="tuberculosis",
    layout="MontgomerySet/CXR_png/MCUCXR_0001_0.png, ClinicalReadings/MCUCXR_0001_0.txt",
    size="138 images: Normal 80, Tuberculosis 58; no splits",
    licence=_LICENCE,
    url=_URL,
    citation=_CITATION,
    traps=(
        "The last digit of a name is the label: 1 is tuberculosis.",
        "Images 0113 and 0117 are of one patient, and so are 0162, 0166 and 0170.",
        "Each image has two masks, ManualMask/leftMask and rightMask. They are not read.",
        "Images have 4020 × 4892 or 4892 × 4020 pixels. Both are upright.",
        "TBX11K (all_*, extra) and the set of Rahman et al. have copies of these images.",
    ),
)

SHENZHEN = SetDescription(
    name="shenzhen",
    title="Shenzhen tuberculosis set",
    rows=shenzhen_rows,
    labels=LABELS,
    folders=("ChinaSet_AllFiles",),
    contains=("CXR_png",),
    has_patients=False,
    words="tuberculosis",
    layout="ChinaSet_AllFiles/CXR_png/CHNCXR_0001_0.png, ClinicalReadings/CHNCXR_0001_0.txt",
    size="662 images: Normal 326, Tuberculosis 336; no splits",
    licence=_LICENCE,
    url=_URL,
    citation=_CITATION,
    traps=(
        "The last digit of a name is the label: 1 is tuberculosis.",
        "Most images are palette PNGs, and some are RGB. They become grey.",
        "Ages are in years, months or days, and some readings are misspelt.",
        "TBX11K (all_*, extra) and the set of Rahman et al. have copies of these images.",
    ),
)
