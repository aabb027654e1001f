"""Reports many problems of a data set in one message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from trainables.data.records import Dataset
from trainables.errors import DataError
from trainables.shell import command

MAX_LISTED = 20


def refuse(problems: Sequence[str], *, about: str) -> None:
    """Raises a DataError that lists the first 20 problems; does nothing without problems."""
    if problems:
        raise DataError("\n".join([f"{about} ({len(problems)}):", *listed(problems)]))


def listed(items: Sequence[str]) -> list[str]:
    """Returns an indented line for each of the first 20 items, and a line that counts the rest."""
    rest = [f"… and {len(items) - MAX_LISTED} more"] if len(items) > MAX_LISTED else []
    return [f"  {item}" for item in [*items[:MAX_LISTED], *rest]]


class UnusableImages(DataError):
    """Images of a data set that cannot be decoded. `reasons` says why, by position in `dataset.records`."""

    reasons: Mapping[int, str] = MappingProxyType({})


def refuse_unusable(dataset: Dataset, reasons: Mapping[int, str]) -> None:
    """Raises UnusableImages that lists the first 20 images; does nothing without reasons."""
    try:
        refuse(list(reasons.values()), about=f"unusable images of {dataset.name}")
    except DataError as error:
        how = (
            "leave them out: write their paths to a file with the same --set options and "
            f"'{command('data check --write-bad FILE')}', then add --set data.exclude=FILE"
        )
        unusable = UnusableImages(f"{error}\n{how}")
        unusable.reasons = dict(reasons)
        raise unusable from None
