"""Reads single values of tables and DICOM headers: missing values, sex and age."""

from __future__ import annotations

import re

from trainables.data.identifiers import text_key

_MISSING = ("", "nan", "<na>", "null", "n/a", "#n/a")
_PLACEHOLDERS = ("none", "na", "unk", "unknown", "-", "?")
_OLDEST = 130.0
_PER_YEAR = {"m": 12.0, "w": 365.25 / 7, "d": 365.25}


def is_missing(text: str | None) -> bool:
    """Returns whether a value of a table is blank, also as pandas and Excel write it."""
    return text is None or text_key(text) in _MISSING


def is_placeholder(text: str) -> bool:
    """Returns whether a value only says that something is not known. For a class, it may be a name."""
    return text_key(text) in _PLACEHOLDERS


def sex_of(text: str | None) -> str | None:
    """Returns "F" or "M", or None if the text says neither."""
    first = text_key(text or "")[:1]
    return {"f": "F", "w": "F", "m": "M"}.get(first)


def age_of(text: str | None) -> float | None:
    """Returns an age in years from texts such as `58`, `058Y`, `18M` (months) or `85 or more`, or None.

    Ages above 130 years, such as 999 for an unknown one, are None.
    """
    if text is None or (match := re.match(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", text)) is None:
        return None
    years = float(match[1]) / _PER_YEAR.get(match[2][:1].lower(), 1.0)
    return years if years <= _OLDEST else None
