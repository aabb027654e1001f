"""The page of `data check`: one HTML file that loads nothing, has no script and stays on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from orchestrator.results.data_report import DataReport, counts_with_patients
from orchestrator.results.histograms import Histogram, histograms
from orchestrator.results.private_files import check_replaceable, write_private
from trainables.config import Split
from trainables.data.counter_rng import counter_rng
from trainables.data.pictures import Picture, median_picture, pictures

OPTION, BEGINNING = "--page", "<!doctype html>\n<!-- data check:"
SHEET_IMAGES = 12
"""Images of each class or finding, and split, on the contact sheet."""
MAX_SHOWN = 30
"""Groups of copies and suspected inversions of each kind on the page."""
MEDIAN_IMAGES = 200
"""Images from which a median picture is made."""


@dataclass(frozen=True)
class Shown:
    """An image on the page. It names the file, but no patient."""

    index: int
    file: str
    class_name: str  # its class or findings
    look: str | None  # the kind of images that it should look like
    split: Split
    border: float
    centre: float


def check_page(path: Path) -> None:
    """Checks that the page can be written to a path. Raises ConfigError if not."""
    check_replaceable(path, option=OPTION, begins_with=BEGINNING)


def write_page(report: DataReport, path: Path, *, has_images: bool, seed: int) -> None:
    """Writes the page with mode 0600. Without images, it contains no pixels."""
    text = page(report, has_images=has_images, seed=seed)
    write_private(path, text, option=OPTION, begins_with=BEGINNING)


def page(report: DataReport, *, has_images: bool, seed: int) -> str:
    """Returns the page.

    Args:
        report: what `data check` found.
        has_images: whether the page shows images.
        seed: seed of the images on the contact sheet.
    """
    sheet = _contact_sheet(report, seed) if has_images else {}
    copies = _copies(report)
    inverted = [_shown(report, image) for image in report.audit.inversions.images[:MAX_SHOWN]]
    wanted = [each for cells in sheet.values() for images in cells.values() for each in images]
    wanted += [each for _, _, groups in copies for pair in groups for each in pair] + inverted
    medians: dict[str, Picture] = {}
    if has_images:
        for name in sorted({each.look for each in inverted if each.look}):
            alike = [image for image in range(len(report.survey)) if report.look(image) == name]
            medians[name] = median_picture(report.survey, _sample(alike, seed, MEDIAN_IMAGES))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("data_page.html").render(
        report=report,
        class_rows=list(counts_with_patients(report.summary.images, report.summary.patients)),
        findings=list(report.findings()),
        quantities=_quantities(report),
        sheet=sheet,
        sheet_images=SHEET_IMAGES,
        copies=copies,
        inverted=inverted,
        medians=medians,
        pictures=pictures(report.survey, {each.index for each in wanted}) if has_images else {},
        max_shown=MAX_SHOWN,
        number=_number,
    )


def _number(value: float) -> str:
    """Returns a number with three digits, or without a fraction from 1,000 on."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _shown(report: DataReport, image: int) -> Shown:
    record, survey = report.dataset.records[image], report.survey
    return Shown(
        index=image,
        file=record.image_id,
        class_name=", ".join(report.dataset.present(image)) or "no known label",
        look=report.look(image),
        split=record.split,
        border=float(survey.border[image]),
        centre=float(survey.centre[image]),
    )


def _members(report: DataReport, name: str) -> list[int]:
    return [i for i in range(len(report.dataset.records)) if name in report.dataset.present(i)]


def _sample(indices: Sequence[int], seed: int, num_images: int) -> list[int]:
    """Returns a sample in ascending order that depends only on the seed and the number of images."""
    rng = counter_rng("data page", seed, len(indices))
    return sorted(rng.permutation(np.array(indices, dtype=np.int64))[:num_images].tolist())


def _contact_sheet(report: DataReport, seed: int) -> dict[str, dict[str, list[Shown]]]:
    """Returns {class or finding: {split: sample of images}}."""
    records = report.dataset.records
    sheet: dict[str, dict[str, list[Shown]]] = {}
    for name in report.dataset.classes:
        members = _members(report, name)
        for split in report.summary.images.columns:
            of_split = [image for image in members if records[image].split == split]
            if sample := _sample(of_split, seed, SHEET_IMAGES):
                sheet.setdefault(name, {})[split] = [_shown(report, image) for image in sample]
    return sheet


def _copies(report: DataReport) -> list[tuple[str, int, list[tuple[Shown, Shown]]]]:
    """Returns, for each kind of copies: its heading, the number of groups, and pairs of the first groups."""
    audit = report.audit
    kinds = {
        "Copies across splits": [group.leak for group in audit.copies if group.leak],
        "Copies with different labels": [g.contradiction for g in audit.copies if g.contradiction],
        "Copies inside a split": [(group.images[0], group.images[1]) for group in audit.twins],
    }
    return [
        (kind, len(pairs), [(_shown(report, a), _shown(report, b)) for a, b in pairs[:MAX_SHOWN]])
        for kind, pairs in kinds.items()
    ]


def _quantities(report: DataReport) -> dict[str, list[Histogram]]:
    """Returns the histograms of each quantity, one for each class or finding."""
    survey = report.survey
    values: dict[str, Any] = {
        "Mean brightness (0 to 255)": survey.mean,
        "Shorter side (pixels)": np.minimum(survey.height, survey.width),
        "Height divided by width": survey.height / survey.width,
    }
    members = {name: _members(report, name) for name in report.dataset.classes}
    return {title: histograms(of_image, members) for title, of_image in values.items()}
