"""Completes records with what the headers of DICOM files say: patient as a keyed hash, view, sex and age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from trainables.data.formats.content import is_dicom
from trainables.data.formats.pseudonyms import key_of_images
from trainables.data.records import ImageRecord
from trainables.data.views import view_of

# Imports inside functions: pydicom takes a third of a second, and most data sets have no DICOM file.


def with_headers(
    records: Sequence[ImageRecord],
    content: Mapping[str, str],
    notes: list[str],
    *,
    has_patient_ids: bool = True,
) -> list[ImageRecord]:
    """Returns the records, with facts from DICOM headers where a table or folder gives none.

    Patients come from headers only if no table or folder gives patients. An image whose header has no
    PatientID counts as one patient. If all headers name one patient, such as `Anonymous`, patients are not
    known. A damaged header is ignored here; the decoder refuses its file later.

    Args:
        records: the records, in any order.
        content: image_id → SHA-256 of the file. All hashes together are the key of the patients' hashes.
        notes: receives what the user must know.
        has_patient_ids: whether PatientID names a patient. In some public sets it names the image.
    """
    dicoms = [record for record in records if record.path is not None and is_dicom(record.path)]
    if not dicoms:
        return list(records)
    from trainables.data.formats.dicom.facts import dicom_facts

    key, by_image_id = key_of_images(content.values()), {record.image_id: record for record in records}
    wants_patients = has_patient_ids and not any(record.patient_id for record in records)
    for record in dicoms:
        assert record.path is not None
        facts = None
        with suppress(ValueError):
            facts = dicom_facts(record.path, key=key)
        if facts is not None:
            by_image_id[record.image_id] = replace(
                record,
                patient_id=(facts.patient or "") if wants_patients else record.patient_id,
                view=record.view or view_of(facts.view),
                sex=record.sex or facts.sex,
                age=facts.age if record.age is None else record.age,
            )
    completed = [by_image_id[record.image_id] for record in records]
    return _with_every_patient(completed, notes) if wants_patients else completed


def _with_every_patient(records: Sequence[ImageRecord], notes: list[str]) -> list[ImageRecord]:
    """Returns the records so that either all of them have a patient, or none has."""
    patients = {record.patient_id for record in records if record.patient_id}
    if len(patients) <= 1:  # no header names a patient, or all name the same placeholder
        return [replace(record, patient_id="") for record in records]
    if count := sum(not record.patient_id for record in records):
        notes.append(f"{count:,} images without a patient in their header count as one patient each")
    return [replace(record, patient_id=record.patient_id or record.image_id) for record in records]
