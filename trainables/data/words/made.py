"""Makes words from the labels of a data set, for classes that nobody has written words for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trainables.data.words import templates
from trainables.data.words.shipped import read_shipped
from trainables.data.words.templates import fill
from trainables.data.words.words_file import ClassWords

_NORMAL = re.compile(
    r"normals?|normal (?:chest|lungs?|cxr|x ray)|healthy(?: (?:chest|lungs?|controls?))?|health|unremarkable"
    r"|no (?:abnormal )?findings?|no abnormalit(?:y|ies)|no disease",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"(?:no|non|not|without)\b[ ]*(.+)", re.IGNORECASE)
_ANSWER = re.compile(r"true|false|yes|no|pos(itive)?|neg(ative)?|class[\W_]*\d+", re.IGNORECASE)
_UPPER_CASE_LETTERS = 4  # in a label all in upper case, words up to this length stay so: TB, COPD, ARDS
MAX_LABEL = 200
"""Longer labels are cut, as a prompt has about 77 tokens."""
_PAIRS = (
    ("{} is present.", "The chest is normal."),
    ("A film that shows {}.", "A normal chest film."),
    ("Chest radiograph with {}.", "A healthy chest with clear lungs."),
)


def make_words(labels: Sequence[str]) -> dict[str, ClassWords]:
    """Returns words for each label: templates with the label in prose. A normal class gets COVID-QU-Ex's.

    A label that negates ("No pneumothorax") has what it negates as its contrary. Any other class has a normal
    chest as its contrary.
    """
    return {label: _words_of(prose) for label, prose in zip(labels, to_prose(labels), strict=True)}


def to_prose(labels: Sequence[str]) -> list[str]:
    """Returns labels as they appear in a sentence, such as `lung opacity` for `01_Lung_Opacity`.

    "_" and "-" become blanks, camel case is split, and a number before or after the words is left out, unless
    two labels would then be equal.
    """
    proses = [_without_numbers(_split(label)) for label in labels]
    folded = [prose.casefold() for prose in proses]
    return [
        _split(label) if folded.count(prose.casefold()) > 1 else prose
        for label, prose in zip(labels, proses, strict=True)
    ]


def means_normal(label: str) -> bool:
    """Returns whether a label says that the chest is normal, such as `Normal`, `healthy` or `No Finding`."""
    return _NORMAL.fullmatch(to_prose([label])[0]) is not None


def names_nothing(label: str) -> bool:
    """Returns whether a label has no word that names a finding, such as `0`, `True` or `positive`."""
    return re.search(r"[^\W\d_]{2}", label) is None or _ANSWER.fullmatch(label.strip()) is not None


def _words_of(prose: str) -> ClassWords:
    if _NORMAL.fullmatch(prose):
        return read_shipped("covid_qu_ex").classes["Normal"]
    findings, contraries = zip(*_PAIRS, strict=True)
    if negated := _NEGATED.fullmatch(prose):
        contraries = fill(findings, negated[1])
    return ClassWords(
        name=prose,
        findings=fill(templates.FINDINGS, prose),
        unseen=fill(templates.UNSEEN, prose),
        pairs=tuple(zip(fill(findings, prose), contraries, strict=True)),
    )


def _split(label: str) -> str:
    label = "".join(letter if letter.isprintable() else " " for letter in label[:MAX_LABEL])
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", label)
    words = re.sub(r"covid[\W_]*19", "COVID19", words, flags=re.IGNORECASE)  # its number is part of the name
    words = [_lower(word, is_loud=label.isupper()) for word in re.split(r"[\s_-]+", words) if word]
    return " ".join(words) or "unnamed"


def _lower(word: str, *, is_loud: bool) -> str:
    """Returns a word in lower case, but an abbreviation unchanged. `is_loud`: the label is in upper case."""
    if word.upper() in ("COVID", "COVID19"):
        return "COVID" + ("-19" if word.endswith("19") else "")
    is_short = len(word) <= _UPPER_CASE_LETTERS or not is_loud
    return word if len(word) > 1 and word.isupper() and is_short else word.lower()


def _without_numbers(words: str) -> str:
    """Returns words without a number before or after them; unchanged if nothing else is left."""
    left = re.sub(r"^[\d\W]*\d[\W]+(?=\w)|\s+\d+$", "", words).strip()
    return left if re.search(r"[^\W\d_]", left) else words
