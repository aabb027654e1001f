"""Metrics of findings as scikit-learn computes them: one finding, and the images whose label is known."""

from __future__ import annotations

import numpy as np
from plain_metrics import plain_calibration_error
from sklearn import metrics as sk

FINDINGS = ("Effusion", "Edema", "Hernia", "No Finding")
MACRO = {
    "macro_auroc": "auroc",
    "macro_ap": "average_precision",
    "nll": "nll",
    "brier": "brier",
    "ece": "ece",
}


def tied_findings(num_images: int = 150) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores [N, 4] with many ties, labels with a tenth unknown, and patients of these images."""
    rng = np.random.default_rng(0)
    labels = (rng.random((num_images, 4)) < (0.3, 0.15, 0.04, 0.5)).astype(np.int8)
    logits = rng.normal(size=(num_images, 4)) + 1.5 * labels - 1
    labels[rng.random(labels.shape) < 0.1] = -1
    scores = np.clip(np.round(1 / (1 + np.exp(-logits)), 2), 0.01, 0.99)
    patients = np.array([f"p{i}" for i in rng.integers(60, size=num_images)])
    return scores, labels, patients


def plain_finding(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Returns the metrics of one finding, from scores and labels [N] and whole weights [N].

    AUROC and average precision are left out if the images have labels of one kind.
    """
    kept = (labels >= 0) & (weights > 0)
    values, is_positive, sizes = scores[kept], labels[kept] == 1, weights[kept]
    said, truth = (np.repeat(each, sizes.astype(np.int64)) for each in (values, is_positive))
    found = {
        "nll": sk.log_loss(is_positive, values, sample_weight=sizes, labels=[False, True]),
        "brier": sk.brier_score_loss(is_positive, values, sample_weight=sizes, labels=[False, True]),
        "ece": plain_calibration_error(said, truth),
    }
    if truth.any() and not truth.all():
        found["auroc"] = sk.roc_auc_score(is_positive, values, sample_weight=sizes)
        found["average_precision"] = sk.average_precision_score(is_positive, values, sample_weight=sizes)
    return found


def plain_macro(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Returns the means over all findings with labels of both kinds, without the last one."""
    kept = [k for k in range(labels.shape[1] - 1) if {0, 1} <= set(labels[:, k].tolist())]
    found = [plain_finding(scores[:, k], labels[:, k], weights) for k in kept]
    return {
        name: float(np.mean([each[metric] for each in found if metric in each]))
        for name, metric in MACRO.items()
        if any(metric in each for each in found)
    }
