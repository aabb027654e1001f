import json
from dataclasses import replace

import numpy as np
import pytest
from films import chests, films, survey_of, with_findings

from trainables.config import Split
from trainables.scoring.audit import audit

SPLITS: list[Split] = ["train"] * 24 + ["val"] * 8 + ["test"] * 8
CLASSES = ["Normal", "Pneumonia"] * 20


@pytest.fixture
def images() -> np.ndarray:
    return chests(40)


def audited(images: np.ndarray, store, classes=CLASSES):
    dataset = films(images, classes, SPLITS)
    return audit(dataset, survey_of(dataset, store))


def shown(report) -> list[str]:
    return [line for finding in report.findings() for line in finding.lines()]


def reencoded(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(5).normal(0, 2, image.shape)
    return np.clip(image * 1.02 + noise, 0, 255).astype(np.uint8)


def test_what_is_clean_is_called_clean(images, tmp_path) -> None:
    report = audited(images, tmp_path)
    assert report.is_clean
    assert report.copies == ()
    assert shown(report)[0] == "0 patients across splits"


def test_copies_across_splits_are_leaks(images, tmp_path) -> None:
    images[36] = images[4]  # test = train: to the bit
    images[24] = reencoded(images[8])  # val = train: re-encoded
    report = audited(images, tmp_path)
    assert [(group.is_exact, group.leak) for group in report.leaks] == [(True, (4, 36)), (False, (8, 24))]
    assert not report.is_clean
    lines = shown(report)
    assert "1 groups of exact duplicates across splits:" in lines
    assert "  'image 004' (train, Normal) and 'image 036' (test, Normal)" in lines
    assert "  'image 008' (train, Normal) and 'image 024' (val, Normal)" in lines


def test_copies_inside_a_split_are_counted_and_no_leak(images, tmp_path) -> None:
    images[6] = images[4]
    images[10] = reencoded(images[8])
    report = audited(images, tmp_path)
    assert report.is_clean
    assert [group.images for group in report.twins] == [(4, 6), (8, 10)]
    assert report.to_dict()["images_with_twins"] == 4
    assert "4 images have a copy in their split:" in shown(report)


def test_copies_with_different_labels_are_named(images, tmp_path) -> None:
    images[5] = images[4]
    report = audited(images, tmp_path)
    assert not report.is_clean
    assert [group.contradiction for group in report.copies] == [(4, 5)]
    assert shown(report)[-1] == "  'image 004' (train, Normal) and 'image 005' (train, Pneumonia)"


def test_withheld_labels_contradict_nothing(images, tmp_path) -> None:
    images[33] = images[32]
    withheld = [*CLASSES[:32], *[None] * 8]
    report = audited(images, tmp_path, withheld)
    assert [group.images for group in report.twins] == [(32, 33)]
    assert report.contradictions == ()


def test_a_negative_is_no_clean_image(images, tmp_path) -> None:
    images[7] = 255 - images[7]
    report = audited(images, tmp_path)
    assert report.inversions.images == (7,)
    assert not report.is_clean


def test_a_patient_in_two_splits_is_found(images, tmp_path) -> None:
    dataset = films(images, CLASSES, SPLITS)
    records = list(dataset.records)
    records[30] = replace(records[30], patient_id="patient 007")
    report = audit(replace(dataset, records=tuple(records)), survey_of(dataset, tmp_path))
    assert report.shared_patients == ("patient 007",)


def test_counts_have_no_identifier(images, tmp_path) -> None:
    images[36] = images[4]
    text = json.dumps(audited(images, tmp_path).to_dict())
    assert '"exact_duplicates": 1' in text
    assert "image 0" not in text
    assert "patient 0" not in text


LABELS = [(1, 1), (0, 0), (1, -1), (0, 1)] * 10


def audited_findings(images: np.ndarray, store, labels):
    dataset = with_findings(films(images, CLASSES, SPLITS), labels, "Edema", "Hernia")
    return audit(dataset, survey_of(dataset, store))


def test_copies_contradict_each_other_in_known_findings_alone(images, tmp_path) -> None:
    images[2] = images[0]  # Edema in both; Hernia is unknown in one
    images[7] = images[4]  # Edema in one, not in the other
    report = audited_findings(images, tmp_path, LABELS)
    assert [group.contradiction for group in report.copies] == [None, (4, 7)]
    assert shown(report)[-1] == "  'image 004' (train, Edema, Hernia) and 'image 007' (train, Hernia)"


def test_a_negative_is_found_among_images_with_any_finding(images, tmp_path) -> None:
    images[8] = 255 - images[8]
    images[9] = 255 - images[9]  # of No Finding
    report = audited_findings(images, tmp_path, LABELS)
    assert report.inversions.images == (8, 9)
    assert report.inversions.classes == ()
    unknown = audited_findings(images, tmp_path, [*LABELS[:8], (0, -1), *LABELS[9:]])
    assert unknown.inversions.images == (9,)  # an image without a known label is not judged
