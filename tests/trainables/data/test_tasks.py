"""Several findings per image: groups, strata, completeness, contraries and captions."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trainables.config import Split
from trainables.data.records import NO_FINDING, Dataset, ImageRecord
from trainables.data.splits import cut_fold, draw_splits
from trainables.data.tasks import TASKS
from trainables.data.text import NO_LABEL, captions_for, prompts_of
from trainables.data.words.made import make_words
from trainables.data.words.words import Words
from trainables.errors import DataError

CLASSES = ("Edema", "Hernia", NO_FINDING)
FINDINGS = TASKS["multilabel"]


def record(i: int, *labels: int, split: Split = "train", patient: str | None = None) -> ImageRecord:
    named = dict(zip(CLASSES, labels, strict=True))
    return ImageRecord(f"{i:04d}.png", patient or f"p{i}", split, named, Path(f"{i:04d}.png"))


def dataset_of(*records: ImageRecord) -> Dataset:
    words = Words(make_words(CLASSES))
    return Dataset("made", CLASSES, records, "", "", _decode, task="multilabel", words=words)


def _decode(record: ImageRecord) -> np.ndarray:
    return np.zeros((8, 8), np.uint8)


def test_images_of_one_group_have_equal_labels_also_unknown_ones():
    labels = np.array([[1, 0, 0], [1, -1, 0], [1, 0, 0], [0, 0, 1], [1, -1, 0]], np.int8)
    groups = FINDINGS.groups(labels)
    assert groups.dtype == np.int64
    assert groups[0] == groups[2]
    assert groups[1] == groups[4]
    assert len(set(groups.tolist())) == 3


def test_targets_are_labels_and_a_withheld_label_is_refused():
    dataset = dataset_of(record(0, 1, -1, 0), replace(record(1, 0, 0, 1), labels={}, split="test"))
    assert dataset.targets(np.array([0])).tolist() == [[1, -1, 0]]
    assert dataset.targets(np.array([], np.int64)).shape == (0, 3)
    assert dataset.findings == ("Edema", "Hernia")
    with pytest.raises(ValueError, match="withheld"):
        dataset.targets(np.array([0, 1]))


def test_a_caption_has_one_sentence_for_each_finding_in_a_drawn_order():
    dataset = dataset_of(record(0, 1, 1, 0), record(1, 0, 0, 1), record(2, 0, -1, -1))
    words = {name: dataset.words.of(name).findings for name in CLASSES}
    first = Counter[str]()
    for epoch in range(60):
        both, normal, unknown = captions_for(dataset, np.arange(3), kind="finding", seed=0, epoch=epoch)
        assert normal in words[NO_FINDING]
        assert unknown == NO_LABEL
        assert all(any(sentence in both for sentence in words[name]) for name in ("Edema", "Hernia"))
        first[next(name for name in CLASSES if both.startswith(words[name]))] += 1
    assert first["Edema"] + first["Hernia"] == 60
    assert min(first.values()) > 15


def test_findings_are_scored_against_no_finding():
    prompts = prompts_of(dataset_of(record(0, 1, 0, 0)), "unseen")
    assert prompts.contrary is not None
    assert prompts.contrary["Edema"] == prompts.contrary["Hernia"] == prompts.of_class[NO_FINDING]
    assert prompts.contrary[NO_FINDING] == [*prompts.of_class["Edema"], *prompts.of_class["Hernia"]]


def test_drawn_splits_keep_patients_together_and_share_out_rare_findings():
    rng = np.random.default_rng(0)
    records = [
        record(i, int(rng.random() < 0.4), int(i % 25 == 0), 0, patient=f"p{i // 2}") for i in range(500)
    ]
    patients = [r.patient_id for r in records]
    drawn = draw_splits(records, patients, task="multilabel", seed=0)
    assert len({(r.patient_id, r.split) for r in drawn}) == 250
    hernia = Counter(r.split for r in drawn if r.labels["Hernia"] == 1)
    assert hernia == {"train": 14, "test": 4, "val": 2}
    of_fold = [cut_fold(records, patients, task="multilabel", num_folds=5, fold=k, seed=0) for k in range(5)]
    assert [sum(r.split == "test" and r.labels["Hernia"] == 1 for r in fold) for fold in of_fold] == [4] * 5


def test_a_finding_with_fewer_patients_than_parts_refuses_nothing():
    records = [record(i, i % 2, int(i in (3, 8)), 0) for i in range(40)]
    drawn = draw_splits(records, [r.patient_id for r in records], task="multilabel", seed=1)
    assert {r.split for r in drawn} == {"train", "val", "test"}
    FINDINGS.check_complete(drawn, CLASSES)


def test_too_few_patients_and_a_split_without_a_metric_are_refused():
    records = [record(i, i % 2, 0, 0, patient=f"p{i % 4}") for i in range(40)]
    with pytest.raises(DataError, match="4 patients, too few for 10 parts"):
        draw_splits(records, [r.patient_id for r in records], task="multilabel", seed=0)
    of_test = [record(i, 1, -1, 0, split="test") for i in range(50, 60)]
    of_val = [replace(r, split="val") for r in records[:4]]
    with pytest.raises(DataError, match="split 'test' has no finding with a positive and a negative"):
        FINDINGS.check_complete([*records, *of_val, *of_test], CLASSES)
