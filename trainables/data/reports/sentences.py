"""Cuts the text of a report into sentences, without removed words and remarks on earlier studies."""

from __future__ import annotations

import re

_REMOVED = re.compile(r"_{2,}|X{3,}")
"""What stands for a removed word: `___` in MIMIC-CXR, `XXXX` in Open-i, also within a word: `x-XXXX`."""
_DANGLING = re.compile(r"(?:and|at|by|dated|dr\.?|from|in|of|on|since|to|with)", re.IGNORECASE)
"""Words that mean nothing before a removed word at the end of a clause: `compared to ___.`"""
_ABBREVIATION = re.compile(r"\(?(?:approx|ca|cf|drs?|e\.g|eg|etc|fig|i\.e|ie|mrs?|ms|st|vs)\.", re.IGNORECASE)
_ITEM = re.compile(r"(?:(?<=^)|(?<=[.:;!?] ))(?:\(?\d{1,2}[.)]|[-*•]) (?=\S)")
"""The number or mark of an item: `1. No effusion.`; not that of `1.5 cm` or `level 5. The heart`."""
_BETWEEN = re.compile(r"(?<=[.!?]) ")
_STRAY = (
    (re.compile(r"\( *\)|\[ *\]|\" *\""), " "),
    (re.compile(r" +([,.;:!?)])"), r"\1"),
    (re.compile(r"([(]) +"), r"\1"),
    (re.compile(r"[,;:]+(?=[,;:.!?])"), ""),
    (re.compile(r"([.!?])[.!?]+"), r"\1"),
    (re.compile(r" {2,}"), " "),
)

_OPERATION = (
    r"(?: (?:median|left|right|bilateral|coronary))? (?:sternotom|surg|cabg|bypass|fractur|resect|operat|"
    r"thoracot|lobect|mastect|cholecyst|granulomat|tubercul|infect|trauma|valve)"
)
_COMPARISON = re.compile(
    r"\b(?:compar(?:ed|ison|able)|unchanged|unaltered|interval(?:ly)?|since|stable|stably|persist\w*|"
    r"worsen\w*|improv\w*|progress\w*|resolv(?:ed|ing)|again|"
    r"(?:has|have|having|had) (?:\w+ )?(?:increased|decreased|cleared|enlarged|grown|changed|developed)|"
    r"no (?:(?:\w+-)?interval |significant |substantial |relevant |appreciable |definite )?change|"
    r"(?:as|than) before|"
    rf"(?:prior|previous|previously|earlier|preceding)(?!{_OPERATION}))\b",
    re.IGNORECASE,
)


def sentences_of(text: str, *, drop_comparisons: bool) -> list[str]:
    """Returns the sentences of a section, in order and without repetitions; each ends with a mark.

    A sentence without a word is dropped, because all of its words were removed.
    """
    found: dict[str, None] = {}
    for paragraph in text.splitlines():
        for sentence in split_sentences(without_removed(paragraph)):
            is_said = sum(char.isalpha() for char in sentence) >= 2
            if is_said and not (drop_comparisons and is_comparison(sentence)):
                found[sentence if sentence[-1] in ".!?" else f"{sentence}."] = None
    return list(found)


def without_removed(text: str) -> str:
    """Returns a paragraph without removed words, and without the blanks and marks that they leave."""
    if not _REMOVED.search(text):
        return text
    kept: list[str] = []
    for word in text.split():
        if not _REMOVED.search(word):
            kept.append(word)
            continue
        mark = word[-1] if word[-1] in ".,;:!?" else ""
        if mark:
            while kept and _DANGLING.fullmatch(kept[-1]):
                kept.pop()
            kept.append(mark)
    while kept and _DANGLING.fullmatch(kept[-1]):
        kept.pop()
    return " ".join(kept)


def split_sentences(text: str) -> list[str]:
    """Splits a paragraph into sentences, without the numbers of items.

    A sentence ends at `.`, `!` or `?` before a blank, but not after an abbreviation. `1.5 cm` has no blank.
    """
    sentences: list[str] = []
    is_open = False
    for item in _ITEM.split(text):
        for piece in _BETWEEN.split(item):
            if is_open:
                sentences[-1] = f"{sentences[-1]} {piece}"
            else:
                sentences.append(piece)
            is_open = _ABBREVIATION.fullmatch(piece.rpartition(" ")[2]) is not None
        is_open = False
    return [tidy for sentence in sentences if (tidy := _tidy(sentence))]


def is_comparison(sentence: str) -> bool:
    """Returns whether a sentence remarks on an earlier study, which the image alone cannot show.

    Words in English, after the remarks that Ramesh et al. 2022 (arXiv:2210.06340) remove from MIMIC-CXR.
    """
    return _COMPARISON.search(sentence) is not None


def _tidy(sentence: str) -> str:
    for pattern, replacement in _STRAY:
        sentence = pattern.sub(replacement, sentence)
    return sentence.strip(" ,;:-")
