"""What a DICOM header tells the reader of a data set about the patient: a pseudonym, view, sex, age."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainables.data.formats.content import is_dicom
from trainables.data.formats.dicom.file import opened, text_of
from trainables.data.formats.dicom.header import is_chest, shown
from trainables.data.formats.pseudonyms import keyed_hash
from trainables.data.identifiers import patient_key
from trainables.data.values import age_of, sex_of


@dataclass(frozen=True)
class DicomFacts:
    """Facts of a header that identify nobody. Missing facts are None."""

    patient: str | None  # a keyed hash of PatientID
    view: str | None  # ViewPosition in upper case, such as "PA"
    sex: str | None  # "F" or "M"
    age: float | None  # years
    is_chest: bool | None


def dicom_facts(path: Path, *, key: bytes) -> DicomFacts | None:
    """Returns the facts in the header of a DICOM file, or None if the file is no DICOM file.

    The pixels are not read. PatientID leaves this function only as a hash (`pseudonyms.keyed_hash`); no other
    value that identifies a person is read.

    Raises:
        ValueError: the header is damaged.
    """
    if not is_dicom(path):
        return None
    with opened(path, with_pixels=False) as dataset:
        patient = text_of(dataset, "PatientID")
        return DicomFacts(
            patient=keyed_hash(patient_key(patient), key) if patient else None,
            view=shown(text_of(dataset, "ViewPosition")).upper() or None,
            sex=sex_of(text_of(dataset, "PatientSex")),
            age=age_of(text_of(dataset, "PatientAge")),
            is_chest=is_chest(dataset),
        )
