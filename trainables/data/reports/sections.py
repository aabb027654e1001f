"""Finds the sections of a report. Knows the headings of MIMIC-CXR and of Open-i. Imports no torch."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MAX_CHARS = 20_000
"""The rest of a longer text is not read, so that no text takes long. Hospital reports have 500 to 3,000."""


class Report(NamedTuple):
    """The sections of a report that describe the image; empty if missing. Paragraphs are lines.

    `unnamed` is the text without a heading. Indication, technique and the like are left out.
    """

    findings: str
    impression: str
    unnamed: str


_OTHER = None  # a section that does not describe the image
_SECTIONS: dict[str, str | None] = {
    "findings": "findings",
    "findings and impression": "findings",
    "findings/impression": "findings",
    "impression and findings": "findings",
    "imaging notes": "findings",
    "impression": "impression",
    "impressions": "impression",
    "conclusion": "impression",
    "conclusions": "impression",
    "final report": "unnamed",
    "report": "unnamed",
} | dict.fromkeys(
    (
        "addendum", "clinical data", "clinical history", "clinical indication", "clinical information",
        "comparison", "comparisons", "comparison exam", "date", "discussion", "exam", "exam type",
        "examination", "history", "indication", "indications", "notification", "patient history",
        "presentation", "procedure", "reason for exam", "reason for examination", "reason for study",
        "recommendation", "recommendations", "recommendation(s)", "study", "technique", "type of examination",
        "views", "wet read",
    ),
    _OTHER,
)  # fmt: skip
"""Heading → field of `Report`. Other words before a colon, such as LUNGS:, belong to the text."""

_NAMES = "|".join(re.escape(name) for name in sorted(_SECTIONS, key=len, reverse=True))
_UPPER = "|".join(name.upper() for name in ("findings", "impression"))
_HEADING = re.compile(
    rf"(?:^|(?<=[.!?:;] ))(?:(?i:{_NAMES}))(?= ?:)"  # Impression: at the start of a line or sentence
    rf"|(?<![\w-])(?:{_NAMES.upper()})(?= ?:)"  # IMPRESSION: anywhere
    rf"|^(?:(?i:{_NAMES}))(?=$)"  # Impression, alone in its line
    rf"|(?:^|(?<=[.!?] ))(?:{_UPPER})(?= )(?! (?i:and|/)\b)"  # IMPRESSION, without a colon
)


def parse_report(text: str) -> Report:
    """Returns the sections of a report. Control characters and the text after `MAX_CHARS` are not read.

    FINDINGS and IMPRESSION end at the next heading, other sections at a blank line too: the report itself may
    follow them without a heading.
    """
    found: dict[str | None, list[str]] = {}
    section: str | None = "unnamed"
    may_end = False  # whether the section has text, so that a blank line can end it
    for line in _lines(text):
        if not line:
            if section is _OTHER and may_end:
                section = "unnamed"
            found.setdefault(section, []).append("")
        for heading, content in _parts(line):
            if heading is not None:
                section, may_end = _SECTIONS[heading], False
                found.setdefault(section, []).append("")
            if content:
                found.setdefault(section, []).append(content)
                may_end = True
    return Report(*(_paragraphs(found.get(name, ())) for name in Report._fields))


def _lines(text: str) -> Iterator[str]:
    """Yields the lines of a text, printable and with single blanks."""
    for line in text[:MAX_CHARS].splitlines():
        printable = (" " if unicodedata.category(char)[0] in "CZ" else char for char in line)
        yield " ".join("".join(printable).split())


def _parts(line: str) -> Iterator[tuple[str | None, str]]:
    """Yields the headings of a line, in lower case, each with its text; None for text before a heading."""
    heading, start = None, 0
    for match in _HEADING.finditer(line):
        if match.start() or heading:
            yield heading, line[start : match.start()].strip(" :")
        heading, start = match.group().lower(), match.end()
    if line:
        yield heading, line[start:].lstrip(" :") if heading else line


def _paragraphs(lines: Iterable[str]) -> str:
    """Joins the lines of each paragraph. A numbered or marked line begins another paragraph."""
    paragraphs = [""]
    for line in lines:
        if not line or _ITEM.match(line):
            paragraphs.append("")
        paragraphs[-1] = f"{paragraphs[-1]} {line}".strip()
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)


_ITEM = re.compile(r"(?:\(?\d{1,2}[.)]|[-*•]) ")
