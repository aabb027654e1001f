"""The page of `data check`: what it shows, what it never shows, and that a browser needs nothing else."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from films import chests, films, with_findings

from orchestrator.results import data_page
from orchestrator.results.data_page import page, write_page
from orchestrator.results.data_report import DataReport
from orchestrator.results.histograms import histograms
from trainables.config import Split
from trainables.data.summary import summarise
from trainables.data.survey import open_survey
from trainables.errors import ConfigError
from trainables.scoring.audit import audit

SPLITS: list[Split] = ["train"] * 24 + ["val"] * 8 + ["test"] * 8
CLASSES = ["Normal", "<b>TB</b>"] * 20


class Tags(HTMLParser):
    """Collects the start tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture
def report(tmp_path: Path) -> DataReport:
    """Copies across splits, a negative, and a source that has one class only."""
    images = chests(40)
    images[36] = images[4]
    images[7] = 255 - images[7]
    dataset = films(images, CLASSES, SPLITS, sources=["A", "<i>B</i>", "A", "A"] * 10)
    survey = open_survey(dataset, tmp_path / "store")
    return DataReport(dataset, summarise(dataset), survey, audit(dataset, survey))


def test_findings_are_shown_with_their_images(report: DataReport) -> None:
    shown = Tags(page(report, has_images=True, seed=0))
    assert "1 groups of exact duplicates across splits" in shown.text
    assert "image 004 (train, Normal)" in shown.text
    assert "image 036 (test, Normal)" in shown.text
    assert "image 007 (train): border" in shown.text
    assert "⚠ one class only" in shown.text
    alts = [image["alt"] for image in shown.all("img")]
    assert "Normal, test: image 036" in alts
    assert "Median image of <b>TB</b>" in alts


def test_the_page_is_accessible_and_needs_nothing_else(report: DataReport) -> None:
    text = page(report, has_images=True, seed=0)
    shown = Tags(text)
    assert all(
        image["alt"] and str(image["src"]).startswith("data:image/jpeg;") for image in shown.all("img")
    )
    assert all(heading["scope"] in ("col", "row") for heading in shown.all("th"))
    assert len(shown.all("caption")) == len(shown.all("table")) == 2
    assert all(drawing["aria-label"] for drawing in shown.all("svg"))
    assert shown.all("html") == [{"lang": "en"}]
    assert {str(link["href"])[0] for link in shown.all("a")} == {"#"}
    assert not [tag for tag, _ in shown.tags if tag in ("script", "link", "iframe", "form")]
    assert "http:" not in text
    assert "https:" not in text


def test_names_from_the_data_are_escaped(report: DataReport) -> None:
    tags = Tags(page(report, has_images=True, seed=0))
    assert not tags.all("b")
    assert not tags.all("i")


def test_no_patient_and_without_images_no_pixel_is_shown(report: DataReport) -> None:
    assert "patient 0" not in page(report, has_images=True, seed=0)
    text = page(report, has_images=False, seed=0)
    assert "data:image" not in text
    assert "<img" not in text
    assert "image 036 (test, Normal)" in text


def test_the_sample_depends_on_the_seed_alone(report: DataReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_page, "SHEET_IMAGES", 3)
    assert page(report, has_images=True, seed=0) == page(report, has_images=True, seed=0)
    assert page(report, has_images=True, seed=0) != page(report, has_images=True, seed=1)
    of_sheet = [str(image["alt"]) for image in Tags(page(report, has_images=True, seed=0)).all("img")]
    assert sum(alt.startswith("Normal, train") for alt in of_sheet) == 3 + 1  # and the one that has a copy


def test_only_the_user_may_read_the_page_and_no_other_file_is_replaced(
    report: DataReport, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    for _ in range(2):  # a page replaces an earlier page
        write_page(report, path, has_images=False, seed=0)
        assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "own.html").write_text("<!doctype html>\nmine")
    with pytest.raises(ConfigError, match="was not written by --page"):
        write_page(report, tmp_path / "own.html", has_images=False, seed=0)
    assert (tmp_path / "own.html").read_text() == "<!doctype html>\nmine"


def test_histograms_of_classes_share_their_ends() -> None:
    values = np.concatenate([np.full(10, 5.0), np.linspace(0, 32, 33)])
    first, second = histograms(values, {"A": range(10), "B": range(10, 43), "C": []})
    assert (first.low, first.high) == (second.low, second.high) == (0, 32)
    assert first.bars[5] == 1
    assert sum(first.bars) == 1
    assert second.quantiles[1] == pytest.approx(16)


def test_equal_values_have_a_histogram() -> None:
    (only,) = histograms(np.full(4, 224.0), {"A": range(4)})
    assert (only.low, only.high) == (223.5, 224.5)
    assert max(only.bars) == 1


def test_a_page_of_findings_counts_by_finding_and_shows_negatives_beside_their_kind(tmp_path: Path) -> None:
    images = chests(40)
    images[4] = 255 - images[4]
    labels = [(1, 1), (0, 0), (1, -1), (0, 0)] * 10
    dataset = with_findings(films(images, CLASSES, SPLITS), labels, "Edema", "Hernia")
    survey = open_survey(dataset, tmp_path)
    report = DataReport(dataset, summarise(dataset), survey, audit(dataset, survey))
    text = page(report, has_images=True, seed=0)
    assert "images by finding and split" in text
    assert "several findings: 10 of 40 images" in text
    assert "median of any finding" in text
    assert "image 004 (train)" in text
    assert "images of a class" not in text
