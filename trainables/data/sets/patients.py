"""Makes the patients of a data set comparable: equal ids get one spelling, and missing ids are reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trainables.data.identifiers import patient_key
from trainables.data.problems import refuse
from trainables.data.records import ImageRecord
from trainables.errors import DataError


def unify_patients(
    records: Sequence[ImageRecord], *, has_splits: bool, notes: list[str]
) -> tuple[list[ImageRecord], bool]:
    """Returns the records with one spelling per patient, and whether the patients are known.

    Ids are equal if they are the same number, or differ only in case, outer blanks or Unicode composition.

    Raises:
        DataError: equal ids with different spellings are in two splits, or some images have no patient.
    """
    missing = [record for record in records if not record.patient_id]
    if len(missing) == len(records):
        return [replace(record, patient_id=record.image_id) for record in records], False
    if missing:
        raise DataError(
            f"{len(missing)} of {len(records)} images have no patient, such as {missing[0].image_id}; "
            "give every image a patient, or none"
        )
    first: dict[str, ImageRecord] = {}
    respelt: dict[tuple[str, str], str] = {}
    unified: list[ImageRecord] = []
    for record in records:
        one = first.setdefault(patient_key(record.patient_id), record)
        if one.patient_id != record.patient_id:
            pair = one.patient_id, record.patient_id
            leak = f" ({one.split}: {one.image_id}; {record.split}: {record.image_id})"
            if has_splits and record.split != one.split:
                respelt[pair] = leak
            else:
                respelt.setdefault(pair, "")
            record = replace(record, patient_id=one.patient_id)
        unified.append(record)
    refuse(
        [f"'{one}' and '{other}' are one patient{leak}" for (one, other), leak in respelt.items() if leak],
        about="patients in several splits, a leak, because their ids are equal as numbers or without case",
    )
    if respelt:
        notes.append(f"{len(respelt)} patient ids with two spellings were unified")
    return unified, True
