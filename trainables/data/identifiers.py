"""Compares patients, labels, file names and splits by what they mean, not by how they are spelt."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

from trainables.config import Split

_NUMBER = re.compile(r"\d+(\.\d+|,\d\d?)?(e\+\d\d?)?")  # as pandas and Excel write it: 3.0, 3,0, 1.2e+10
SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
"""Names of a split in public data sets → the split."""


def text_key(text: str) -> str:
    """Returns a text without case, outer blanks and differences in Unicode composition."""
    return unicodedata.normalize("NFC", text).strip().casefold()


def one_line(label: str) -> str:
    """Returns a label in one Unicode composition, with single blanks and no line breaks."""
    return " ".join(unicodedata.normalize("NFC", label).split())


def patient_key(text: str) -> str:
    """Returns a key that is equal for equal patients: like `text_key`, and equal numbers are equal.

    An apostrophe before the id does not count, because spreadsheets write it before numbers that are text.
    """
    key = text_key(text).removeprefix("'")
    if not _NUMBER.fullmatch(key):
        return key
    number = f"{Decimal(key.replace(',', '.')):f}"  # exact, however many digits there are
    return number.rstrip("0").rstrip(".") if "." in number else number


def label_key(text: str) -> str:
    """Returns a key that is equal for labels that are probably one class: only letters and digits count."""
    key = patient_key(text)
    return re.sub(r"[\W_]", "", key) or key


def split_named(text: str) -> Split | None:
    """Returns the split with this name, such as `Valid` or `dev`, or None."""
    return SPLITS.get(text_key(text))
