"""The names of the views of a chest radiograph in tables and DICOM headers."""

from __future__ import annotations

import re

from trainables.data.values import is_missing, is_placeholder

_FRONTAL = ("PA", "AP", "FRONTAL", "POSTEROANTERIOR", "ANTEROPOSTERIOR")
_LATERAL = ("LL", "RL", "L", "LLD", "RLD", "LAT", "LATERAL", "LLAT", "RLAT", "LEFTLATERAL", "RIGHTLATERAL")


def view_of(text: str | None) -> str | None:
    """Returns the view in one form, such as `PA`, `AP`, `FRONTAL` or `LATERAL`, or None if it is not known.

    `AP Supine` and `AP_horizontal` are `AP`. Another name, such as `OBLIQUE`, is returned in upper case.
    """
    if text is None or is_missing(text) or is_placeholder(text):
        return None
    name = text.strip().upper()
    first, letters = re.split(r"[\W_]+", name)[0], re.sub(r"[\W_]", "", name)
    for known in (letters, first):
        if known in _LATERAL:
            return "LATERAL"
        if known in _FRONTAL:
            return {"POSTEROANTERIOR": "PA", "ANTEROPOSTERIOR": "AP"}.get(known, known)
    return name


def is_frontal(text: str | None) -> bool:
    """Returns whether a view is frontal. An unknown view counts as frontal."""
    return view_of(text) in (None, "PA", "AP", "FRONTAL")
