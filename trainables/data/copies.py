"""Finds exact copies of images: contradictory labels are refused, and copies stay in one split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainables.data.problems import refuse
from trainables.data.records import ImageRecord


def check_no_contradiction(records: Sequence[ImageRecord], content: Mapping[str, str]) -> None:
    """Raises DataError if identical files have contrary labels. An unknown label contradicts nothing."""
    copies: dict[str, list[ImageRecord]] = {}
    for record in records:
        copies.setdefault(content[record.image_id], []).append(record)
    problems: list[str] = []
    for group in copies.values():
        known: dict[tuple[str, int], ImageRecord] = {}  # (label, 0 or 1) → the first copy with this label
        for record in group if len(group) > 1 else ():
            twins = (known.get((name, 1 - value)) for name, value in record.labels.items() if value in (0, 1))
            for item in record.labels.items():
                known.setdefault(item, record)
            if (twin := next(filter(None, twins), None)) is not None:
                problems.append(
                    f"{twin.image_id} is {_named(twin)}, and its copy {record.image_id} is {_named(record)}"
                )
    refuse(problems, about="identical images with different labels; delete the wrong ones, or list them in "
           "a file: --set data.exclude=FILE")  # fmt: skip


def groups(records: Sequence[ImageRecord], content: Mapping[str, str]) -> list[str]:
    """Returns the group of each record: patients that share an identical image are in one group.

    A group has the name of its first patient, so without copies the groups are the patients.
    """
    parent: dict[str, str] = {}

    def root(patient: str) -> str:
        while (above := parent.setdefault(patient, patient)) != patient:
            patient = parent[patient] = parent[above]
        return patient

    owner: dict[str, str] = {}
    for record in records:
        one = root(owner.setdefault(content[record.image_id], record.patient_id))
        other = root(record.patient_id)
        parent[other] = one
    return [root(record.patient_id) for record in records]


def count_copies(records: Sequence[ImageRecord], content: Mapping[str, str]) -> int:
    """Returns the number of images that are a copy of an earlier one."""
    return len(records) - len({content[record.image_id] for record in records})


def _named(record: ImageRecord) -> str:
    present = [f"'{name}'" for name, value in record.labels.items() if value == 1]
    return " and ".join(present) or "without a finding"
