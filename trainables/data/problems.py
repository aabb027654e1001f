"""Reports many problems of a data set in one message."""

from __future__ import annotations

from collections.abc import Sequence

from trainables.errors import DataError

MAX_LISTED = 20


def refuse(problems: Sequence[str], *, about: str) -> None:
    """Raises a DataError that lists the first 20 problems; does nothing without problems."""
    if problems:
        listed = [f"  {problem}" for problem in problems[:MAX_LISTED]]
        if len(problems) > MAX_LISTED:
            listed.append(f"  … and {len(problems) - MAX_LISTED} more")
        raise DataError("\n".join([f"{about} ({len(problems)}):", *listed]))
