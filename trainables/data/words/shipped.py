"""The words files that are part of the package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from trainables.data.words.words_file import WordsFile, read_words_file

FOLDER = Path(__file__).resolve().parent
SHIPPED = ("covid_qu_ex", "pneumonia", "tuberculosis", "pneumothorax", "chest_findings")
"""The files for data sets, in the order in which they are searched for labels."""


@cache
def read_shipped(name: str) -> WordsFile:
    """Returns the content of a shipped file."""
    path = FOLDER / f"{name}.yaml"
    return read_words_file(path, shown=path)


def find_shipped(labels: Sequence[str]) -> str | None:
    """Returns the first shipped file that has every one of these labels, spelt in the same way."""
    return next((name for name in SHIPPED if read_shipped(name).by_label().keys() >= set(labels)), None)
