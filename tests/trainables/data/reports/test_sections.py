"""Reports in the forms of MIMIC-CXR, of Open-i and of a table; all texts are made up."""

from __future__ import annotations

import time

import pytest

from trainables.data.reports.sections import MAX_CHARS, Report, parse_report
from trainables.data.reports.sentences import sentences_of

MIMIC = """\
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with fever  // pneumonia?

 COMPARISON:  ___.

 FINDINGS:

 The lungs are clear.  No pleural effusion or
 pneumothorax is seen.

 LUNGS: Well expanded.

 IMPRESSION:

 1.  No acute process.
 2.  Heart size is normal.

 RECOMMENDATION(S):  None.
"""
ONE_PARAGRAPH = """\
 WET READ: ___ ___ ___ 5:00 PM
  no pneumonia

                                 FINAL REPORT
 REASON FOR EXAMINATION:  Follow-up of edema.

 AP radiograph of the chest was reviewed.  The heart is
 normal.
"""


def test_the_sections_of_mimic_cxr() -> None:
    report = parse_report(MIMIC)
    assert report.findings.splitlines() == [
        "The lungs are clear. No pleural effusion or pneumothorax is seen.",
        "LUNGS: Well expanded.",
    ]
    assert report.impression.splitlines() == ["1. No acute process.", "2. Heart size is normal."]
    assert report.unnamed == ""


def test_a_paragraph_without_a_heading_is_found_behind_other_sections() -> None:
    unnamed = "AP radiograph of the chest was reviewed. The heart is normal."
    assert parse_report(ONE_PARAGRAPH) == Report("", "", unnamed)


@pytest.mark.parametrize(
    "text",
    [
        "FINDINGS: Clear lungs. IMPRESSION: Normal chest.",
        "Findings: Clear lungs. Impression: Normal chest.",
        "FINDINGS\nClear lungs.\n\nImpression\nNormal chest.",
        "FINDINGS Clear lungs. IMPRESSION Normal chest.",
        "INDICATION: Cough and findings. FINDINGS : Clear lungs.\r\nCONCLUSION:\r\nNormal chest.",
        "Comparison: XXXX\nfindings: Clear lungs.\nimpression:\n\n\nNormal chest.\nTechnique: PA",
    ],
)
def test_headings_with_and_without_colon_in_any_case(text: str) -> None:
    assert parse_report(text) == Report("Clear lungs.", "Normal chest.", "")


@pytest.mark.parametrize(
    "text", ["Findings are normal.", "The impression: a normal chest.", "No findings\nto report here."]
)
def test_a_word_in_a_sentence_is_no_heading(text: str) -> None:
    assert parse_report(text) == Report("", "", " ".join(text.split()))


def test_case_descriptions_have_headings_of_their_own() -> None:
    text = "Presentation: Fever. . Imaging Notes: Lungs clear.. Heart normal. Discussion: A nurse."
    assert parse_report(text) == Report("Lungs clear.. Heart normal.", "", "")


def test_joint_sections_are_findings_and_blank_ones_are_missing() -> None:
    assert parse_report("FINDINGS AND IMPRESSION: Clear.") == Report("Clear.", "", "")
    assert parse_report("FINDINGS:\n \nIMPRESSION: Clear.") == Report("", "Clear.", "")
    assert parse_report(" \n\t") == Report("", "", "")


def test_control_characters_are_not_read() -> None:
    report = parse_report("FINDINGS: Clear\x00 lungs\x1b[31m.\u202e\nIMPRESSION:\x0bNormal\ufeff.")
    assert all(part.isprintable() for part in report)
    assert report.impression == "Normal ."


@pytest.mark.parametrize(
    "text",
    [
        *("a. " * 33_000, " " * 100_000, "(" * 100_000, "_" * 100_000, "XXXX," * 20_000, "\n" * 100_000),
        *("FINDINGS: " * 10_000, "findings " * 12_000, "1. " * 33_000, "prior left " * 9_000, ",;" * 50_000),
    ],
)
def test_a_text_of_100_kb_takes_no_time(text: str) -> None:
    began = time.perf_counter()
    for section in parse_report(text):
        assert len(section) <= MAX_CHARS
        sentences_of(section, drop_comparisons=True)
    assert time.perf_counter() - began < 2  # measured: 0.03 s
