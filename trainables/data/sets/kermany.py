"""Chest radiographs of children from Guangzhou (Kermany et al. 2018), as on Kaggle or on Mendeley Data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from trainables.data.sets.description import Files, Row, SetDescription
from trainables.data.sets.folder import SetFolder

FILES = Files(r"(?P<split>train|val|test)/(?P<label>NORMAL|PNEUMONIA)/(?P<name>[^/]+)")
_PATIENT = re.compile(
    r"(?P<restarted>person\d+)_.*|(?P<patient>(?:NORMAL2-)?IM-\d+|(?:NORMAL|BACTERIA|VIRUS)-\d+)-.*",
    re.IGNORECASE,
)


def rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each image. The 16 images of the published val split are joined with train.

    The reader then draws val from train by patient.
    """
    for row in FILES(folder):
        split = "test" if (row.split or "").lower() == "test" else "train"
        yield replace(row, split=split, patient=_patient(PurePosixPath(row.path).stem, split))


def _patient(stem: str, split: str) -> str:
    """Returns the patient in the name of a file. The numbers of `personN` begin again in test."""
    match = _PATIENT.fullmatch(stem)
    if match is None:
        return stem
    return match["patient"] or f"{split} {match['restarted']}"


KERMANY = SetDescription(
    name="kermany",
    title="Chest X-Ray Images (Pneumonia) of children, Kermany et al.",
    rows=rows,
    labels={"NORMAL": "Normal", "PNEUMONIA": "Pneumonia"},
    folders=("chest_xray", "ChestXRay2017/chest_xray"),
    contains=("train", "test"),
    words="pneumonia",
    layout="chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg; val may be missing",
    size="5,856 images: Normal 1,583, Pneumonia 4,273; given splits, of which val has 16 images",
    licence="stated on the page of the data set",
    url="https://data.mendeley.com/datasets/rscbjbr9sj",
    citation="Kermany et al. 2018, doi 10.1016/j.cell.2018.02.010",
    notes=("the published val split has 16 images; it was joined with train",),
    traps=(
        "The images are of children of one to five years, from one hospital.",
        "The archive of Kaggle has a second copy in chest_xray/chest_xray. It is left out and counted.",
        "A patient has several images. Patients are read from the names of the files (person1_…, IM-0115-…).",
        "The numbers of person1, person2, … begin again in test, where they are other patients.",
        "PneumoniaMNIST has the same images.",
    ),
)
