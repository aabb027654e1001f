"""Reads the reports of a data set: sentences for captions of train images, texts for retrieval on val."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from trainables.config import DataConfig, ReportSections
from trainables.data.records import Dataset, ImageRecord
from trainables.data.reports.captions import ReportCaptions
from trainables.data.reports.sections import MAX_CHARS, Report, parse_report
from trainables.data.reports.sentences import sentences_of
from trainables.errors import DataError

REPORTS_VERSION = 1
"""Raise this number when the same report would give other sentences."""
_ORDER: dict[ReportSections, tuple[tuple[str, ...], ...]] = {
    "both": (("findings", "impression"), ("unnamed",)),
    "findings": (("findings",), ("impression",), ("unnamed",)),
    "impression": (("impression",), ("findings",), ("unnamed",)),
}
"""`data.report_sections` → the sections to read; the next ones are read if the ones before say nothing."""


def with_reports(dataset: Dataset, config: DataConfig) -> Dataset:
    """Returns the data set with the sentences of its train reports, and with a note that counts them.

    Unchanged unless `data.captions` is `report`. Reports of val and test are no captions.
    """
    if config.captions != "report":
        return dataset
    reports, note = read_captions([r for r in dataset.records if r.split == "train"], config)
    return replace(dataset, reports=reports, notes=(*dataset.notes, note))


def read_captions(records: Iterable[ImageRecord], config: DataConfig) -> tuple[ReportCaptions, str]:
    """Returns the sentences of the reports of these images, and a note with counts only.

    Raises:
        DataError: no report has a sentence.
    """
    sentences: dict[str, tuple[str, ...]] = {}
    drawn_as: dict[str, int] = {}
    numbers: dict[tuple[str, ...], int] = {}
    patients: dict[int, set[str]] = {}
    counts = Counter[str]()
    for record in records:
        counts["images"] += 1
        if record.report_text is None:
            continue
        report = parse_report(record.report_text)
        chosen, is_first = choose(report, config.report_sections, drop_comparisons=config.drop_comparisons)
        counts["reports"] += 1
        counts["no FINDINGS"] += not report.findings
        counts["no IMPRESSION"] += not report.impression
        counts["neither"] += not (report.findings or report.impression)
        counts["cut"] += len(record.report_text) > MAX_CHARS
        counts["another section"] += bool(chosen) and not is_first
        if chosen:
            number = drawn_as[record.image_id] = numbers.setdefault(chosen, len(numbers))
            sentences[record.image_id] = chosen
            patients.setdefault(number, set()).add(record.patient_id)
    shared = {number for number, of_text in patients.items() if len(of_text) > 1}
    if not sentences and not config.permute_labels:  # permuting removes the reports
        raise DataError(
            f"data.captions=report: {counts['reports']:,} of {counts['images']:,} train images have a "
            "report, and none has a sentence to train on; use data.captions=finding, or a data set with "
            "reports, such as manifest with a column 'report'"
        )
    counts["shared"] = sum(number in shared for number in drawn_as.values())
    counts["used"] = len(sentences)
    return ReportCaptions(sentences, drawn_as, config.report_sentences), "; ".join(_told(counts))


def choose(report: Report, wanted: ReportSections, *, drop_comparisons: bool) -> tuple[tuple[str, ...], bool]:
    """Returns the sentences of the wanted sections or, if they say nothing, of the next ones; () if none do.

    The second value is whether the wanted sections said something.
    """
    for place, names in enumerate(_ORDER[wanted]):
        text = "\n".join(getattr(report, name) for name in names)
        if sentences := sentences_of(text, drop_comparisons=drop_comparisons):
            return tuple(sentences), place == 0
    return (), False


def retrieval_text(report_text: str | None) -> str | None:
    """Returns the sentences of a report that retrieval searches, or None if there are none.

    They do not depend on the configuration, so all arms search the same texts: FINDINGS and IMPRESSION,
    without remarks on earlier studies.
    """
    sentences, _ = choose(parse_report(report_text or ""), "both", drop_comparisons=True)
    return " ".join(sentences) or None


def _told(counts: Counter[str]) -> Iterator[str]:
    num_images, num_used = counts["images"], counts["used"]
    yield f"captions from reports: {num_used:,} of {num_images:,} train images"
    if missing := num_images - num_used:
        without = num_images - counts["reports"]
        yield f"{missing:,} have captions of kind 'finding' ({without:,} have no report)"
    for name in ("no FINDINGS", "no IMPRESSION", "neither"):
        if number := counts[name]:
            yield f"{name} in {_share(number, counts['reports'])} reports"
    if number := counts["another section"]:
        yield f"another section was read in {number:,}"
    if number := counts["shared"]:
        yield f"{_share(number, num_used)} images share their text with another patient"
    if number := counts["cut"]:
        yield f"{number:,} are longer than {MAX_CHARS:,} characters, and the rest is not read"


def _share(number: int, total: int) -> str:
    return f"{number:,} ({number / total:.0%})"
