"""Retrieval of reports: equal texts, several images of a study, ties, and the plain definition."""

from __future__ import annotations

import numpy as np
import pytest

from trainables.scoring import retrieval
from trainables.scoring.retrieval import distinct, ranks, retrieval_metrics


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    values = rng.normal(size=shape)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def case(seed: int, num_images: int = 40, num_texts: int = 15):
    """Images of 12 patients and their texts; every text has an image."""
    rng = np.random.default_rng(seed)
    text_of_image = rng.permutation(np.arange(num_images) % num_texts)
    texts = unit(rng, num_texts, 6)
    images = unit(rng, num_images, 6) + 0.7 * texts[text_of_image]
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    return images, texts, text_of_image, rng.integers(12, size=num_images).astype(str)


def plain(images, texts, text_of_image, patients, k: int) -> tuple[float, float]:
    """The definition, study by study: sort, look at the first k, average."""
    to_report: dict[tuple, list[float]] = {}
    for i, image in enumerate(images):
        nearest = sorted(range(len(texts)), key=lambda t: -float(texts[t] @ image))[:k]
        to_report.setdefault((patients[i], text_of_image[i]), []).append(text_of_image[i] in nearest)
    to_image = []
    for _, text in to_report:
        nearest = sorted(range(len(images)), key=lambda i: -float(images[i] @ texts[text]))[:k]
        to_image.append(any(text_of_image[i] == text for i in nearest))
    return float(np.mean([np.mean(hits) for hits in to_report.values()])), float(np.mean(to_image))


@pytest.mark.parametrize("seed", range(4))
def test_recalls_follow_the_definition(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "ROWS_AT_ONCE", 7)  # several blocks
    given = case(seed)
    metrics = retrieval_metrics(*given)
    for k in (1, 5, 10):
        to_report, to_image = plain(*given, k)
        assert metrics[f"val/image_to_report/recall_at_{k}"] == pytest.approx(to_report)
        assert metrics[f"val/report_to_image/recall_at_{k}"] == pytest.approx(to_image)
    low, high = (metrics[f"val/image_to_report/recall_at_1_{bound}"] for bound in ("low", "high"))
    assert 0 <= low <= metrics["val/image_to_report/recall_at_1"] <= high <= 1
    assert low < high


def test_equal_texts_are_hits_of_each_other() -> None:
    images = np.eye(3)[[0, 0, 1]]
    given, texts, text_of_image = distinct({4: "clear", 7: "clear", 9: "edema"})
    assert (given.tolist(), texts, text_of_image.tolist()) == ([4, 7, 9], ["clear", "edema"], [0, 0, 1])
    metrics = retrieval_metrics(images, np.eye(3)[:2], text_of_image, np.array(["a", "b", "c"]))
    assert metrics["val/image_to_report/recall_at_1"] == 1
    assert metrics["val/report_to_image/recall_at_1"] == 1


def test_a_study_counts_once_however_many_images_it_has() -> None:
    texts, text_of_image = np.eye(2), np.array([0, 0, 0, 1])
    images = np.eye(2)[[1, 1, 0, 1]]  # one of three images of the first study finds its text
    metrics = retrieval_metrics(images, texts, text_of_image, np.array(["a", "a", "a", "b"]))
    assert metrics["val/image_to_report/recall_at_1"] == pytest.approx((1 / 3 + 1) / 2)


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_equal_or_undefined_embeddings_find_nothing(value: float) -> None:
    of_images, of_texts = ranks(np.full((20, 4), value), np.full((20, 4), value), np.arange(20))
    assert of_images.min() == of_texts.min() == 19
