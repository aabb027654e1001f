"""Image–report retrieval: how often the report of an image is among the most similar ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trainables.scoring.bootstrap import Bootstrap, intervals, to_metrics
from trainables.scoring.metric_names import IMAGE_TO_REPORT, REPORT_TO_IMAGE

CUTOFFS = (1, 5, 10)
ROWS_AT_ONCE = 1024


def retrieval_metrics(
    images: np.ndarray, texts: np.ndarray, text_of_image: np.ndarray, patients: np.ndarray
) -> dict[str, float]:
    """Returns recall at 1, 5 and 10 on val in both directions, by study, with 95 % intervals by patient.

    A study is a patient with a text. Each study counts once, however many images it has. Equal texts are one
    text: the images of every study with this text are hits. Draws of patients repeat queries; the images and
    texts that are searched stay the same.

    Args:
        images: [N, D], unit length.
        texts: [T, D], unit length, of T different texts; each is the text of an image.
        text_of_image: int64 [N], the place of each image's text.
        patients: str [N], the patient of each image.
    """
    image_ranks, text_ranks = ranks(images, texts, text_of_image)
    patient_of_image = np.unique(patients, return_inverse=True)[1].reshape(-1)
    studies, study_of_image = np.unique(
        np.stack([patient_of_image, text_of_image], axis=1), axis=0, return_inverse=True
    )
    study_of_image = study_of_image.reshape(-1)
    num_images = np.bincount(study_of_image)
    hits = {
        IMAGE_TO_REPORT: lambda k: np.bincount(study_of_image, image_ranks < k) / num_images,
        REPORT_TO_IMAGE: lambda k: (text_ranks < k)[studies[:, 1]].astype(float),
    }
    bootstrap = Bootstrap(np.zeros(len(studies), np.int64), studies[:, 0].astype(str))
    metrics: dict[str, float] = {}
    for system, hits_at in hits.items():
        drawn = {f"recall_at_{k}": _means(hits_at(k), bootstrap.weights) for k in CUTOFFS}
        metrics |= to_metrics("val", system, intervals(drawn))
    return metrics


def ranks(images: np.ndarray, texts: np.ndarray, text_of_image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns how many wrong texts come before the text of each image [N], and the reverse for texts [T].

    A text is found by its most similar image. A tie counts as wrong, so equal embeddings find nothing.
    """
    of_images, of_texts = np.empty(len(images), np.int64), np.empty(len(texts), np.int64)
    for rows in _blocks(len(images)):
        similarities = images[rows] @ texts.T
        own = np.take_along_axis(similarities, text_of_image[rows, None], axis=1)
        of_images[rows] = (~(similarities < own)).sum(axis=1) - 1  # not `>=`: NaN must find nothing
    for rows in _blocks(len(texts)):
        similarities = texts[rows] @ images.T
        is_own = text_of_image[None] == rows[:, None]
        own = np.where(is_own, similarities, -np.inf).max(axis=1, keepdims=True)
        of_texts[rows] = (~(similarities < own) & ~is_own).sum(axis=1)
    return of_images, of_texts


def distinct(texts: Mapping[int, str]) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Returns the images that have a text [N], the distinct texts, and the place of each image's text [N]."""
    places: dict[str, int] = {}
    text_of_image = [places.setdefault(text, len(places)) for text in texts.values()]
    return np.array(list(texts), np.int64), list(places), np.array(text_of_image, np.int64)


def _blocks(number: int) -> Sequence[np.ndarray]:
    return np.split(np.arange(number), range(ROWS_AT_ONCE, number, ROWS_AT_ONCE))


def _means(values: np.ndarray, weights: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the weighted means of values [S] for each column of the weights, [1 + R]."""
    return np.concatenate([values @ block / block.sum(axis=0) for block in weights])
