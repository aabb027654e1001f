"""The sentences and the JSON of `data check`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from films import chests, films, with_findings

from orchestrator.results.data_report import BY_IMAGE, DataReport, counts_with_patients
from trainables.config import Split
from trainables.data.records import Dataset
from trainables.data.summary import summarise
from trainables.data.survey import open_survey
from trainables.scoring.audit import audit

SPLITS: list[Split] = ["train"] * 24 + ["val"] * 8 + ["test"] * 8
CLASSES = ["Normal", "TB"] * 20


def reported(dataset: Dataset, store: Path) -> DataReport:
    survey = open_survey(dataset, store)
    return DataReport(dataset, summarise(dataset), survey, audit(dataset, survey))


@pytest.fixture
def images() -> np.ndarray:
    return chests(40)


def test_many_sources_are_counted_and_a_few_are_named(images: np.ndarray, tmp_path: Path) -> None:
    sources = ["shared" if i < 10 else f"case {i}" for i in range(40)]
    lines = list(reported(films(images, CLASSES, SPLITS, sources), tmp_path).lines())
    assert lines[0].startswith("sources: shared 10, case 10 1, ")
    assert lines[0].endswith("and 23 more")
    told = "30 of 31 sources have images of one class only (30 of 40 images), "
    assert any(line.startswith(told) for line in lines)


def test_one_source_says_nothing(images: np.ndarray, tmp_path: Path) -> None:
    lines = list(reported(films(images, CLASSES, SPLITS, ["NIH"] * 40), tmp_path).lines())
    assert not any("one class only" in line for line in lines)


def test_a_format_of_one_class_only_is_told(images: np.ndarray, tmp_path: Path) -> None:
    report = reported(films(images, CLASSES, SPLITS), tmp_path)
    mixed = replace(report.survey, formats=["PNG" if i % 2 else "DICOM" for i in range(40)])
    lines = list(replace(report, survey=mixed).lines())
    assert "formats: DICOM 20, PNG 20" in lines
    assert any(line.startswith("2 of 2 formats have images of one class only (40 of 40") for line in lines)


def test_negatives_are_told_beside_the_median_of_their_class(images: np.ndarray, tmp_path: Path) -> None:
    images[7] = 255 - images[7]
    report = reported(films(images, CLASSES, SPLITS), tmp_path)
    border, centre = report.class_medians["TB"]
    told = f"border {report.survey.border[7]:.0f}, centre {report.survey.centre[7]:.0f}; "
    told += f"medians of TB: {border:.0f} and {centre:.0f}"
    assert f"  'image 007' (train, TB): {told}" in list(report.lines())
    assert border == pytest.approx(np.median(report.survey.border[1::2]))


def test_a_class_of_negatives_is_told(images: np.ndarray, tmp_path: Path) -> None:
    images[1::2] = 255 - images[1::2]
    report = reported(films(images, CLASSES, SPLITS), tmp_path)
    assert "classes 'Normal' and 'TB' look like negatives of each other" in list(report.lines())
    assert not report.audit.is_clean


def test_warnings_of_the_decoder_are_counted(images: np.ndarray, tmp_path: Path) -> None:
    report = reported(films(images, CLASSES, SPLITS), tmp_path)
    hip = "its header says hip, not chest"
    warned = replace(report.survey, warnings=[[hip] if i in (2, 5) else [] for i in range(40)])
    lines = list(replace(report, survey=warned).lines())
    assert f"warning about 2 images: {hip}:" in lines
    assert "  'image 005' (train, TB)" in lines
    assert replace(report, survey=warned).to_dict()["images"][5]["warnings"] == [hip]


def test_without_patient_ids_only_images_are_counted(images: np.ndarray, tmp_path: Path) -> None:
    dataset = replace(films(images, CLASSES, SPLITS), has_patients=False)
    report = reported(dataset, tmp_path)
    assert BY_IMAGE in list(report.lines())
    assert not any("patients across splits" in line for line in report.lines())
    rows = list(counts_with_patients(report.summary.images, report.summary.patients))
    assert rows == [("Normal", "12", "4", "4"), ("TB", "12", "4", "4")]
    assert "patient 0" not in json.dumps(report.to_dict())


LABELS = [(1, 1), (0, 0), (1, -1), (0, 0)] * 10


def test_several_findings_and_unknown_labels_are_told(images: np.ndarray, tmp_path: Path) -> None:
    labels = [*LABELS[:32], *[(1, 0), (0, 0)] * 4]  # no Hernia in test
    dataset = with_findings(films(images, CLASSES, SPLITS, ["A", "B"] * 20), labels, "Edema", "Hernia")
    report = reported(dataset, tmp_path)
    lines = list(report.lines())
    assert "several findings: 8 of 40 images" in lines
    assert "unknown labels: Hernia 8 (20%)" in lines
    told = "test has no positive or no negative image of Hernia, so its metrics are undefined there"
    assert told in lines
    assert "1 of 2 sources have images of one finding only (20 of 40 images)" in " ".join(lines)
    rows = list(counts_with_patients(report.summary.images, report.summary.patients))
    assert rows[0] == ("Edema", "12 (12)", "4 (4)", "4 (4)")
    assert report.to_dict()["images"][0]["class"] == "Edema|Hernia"
    assert report.to_dict()["class_sources"] == {
        "A": {"Edema": 16, "Hernia": 8}, "B": {"No Finding": 16},
    }  # fmt: skip


def test_negatives_with_a_finding_are_told_beside_the_median_of_their_kind(
    images: np.ndarray, tmp_path: Path
) -> None:
    images[4] = 255 - images[4]
    report = reported(with_findings(films(images, CLASSES, SPLITS), LABELS, "Edema", "Hernia"), tmp_path)
    assert report.class_medians.keys() == {"any finding", "No Finding"}
    lines = list(report.lines())
    assert "1 images look like negatives of their kind:" in lines
    assert any("'image 004' (train, Edema, Hernia): border" in line for line in lines)
