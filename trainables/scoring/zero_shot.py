"""Computes zero-shot scores: compares images with the normalised mean prompt embedding of each class.

The scores of findings need a contrary for each finding. `data.text.prompts_of` chooses it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from trainables.scoring.logistic import softmax


def zero_shot_scores(
    joint: np.ndarray, prompt_embeddings: Sequence[np.ndarray], *, logit_scale: float
) -> np.ndarray:
    """Returns class probabilities float64 [N, K]: softmax of logit_scale × cosine.

    Args:
        joint: image embeddings [N, D], not necessarily normalised.
        prompt_embeddings: one array [n_k, D] for each class, with n_k ≥ 1.
        logit_scale: the multiplier, not its logarithm. It changes probabilities, but not the predicted class.
    """
    classes = class_embeddings(prompt_embeddings)
    return softmax(logit_scale * (normalise(joint) @ classes.T))


def pair_scores(
    joint: np.ndarray,
    findings: Sequence[np.ndarray],
    contrary: Sequence[np.ndarray],
    *,
    logit_scale: float,
) -> np.ndarray:
    """Returns class probabilities float64 [N, K] from pairs of a finding and its contrary.

    p_k = σ(logit_scale × (cosine to the finding − cosine to the contrary)), as in CheXzero (Tiu et al. 2022).
    The p_k are divided by their sum, because classes exclude each other.

    Args:
        joint: image embeddings [N, D], not necessarily normalised.
        findings: one array [n_k, D] for each class, with n_k ≥ 1. The normalised mean is used.
        contrary: the contraries of the findings, in the same format.
        logit_scale: the multiplier, not its logarithm.
    """
    margin = _margin(joint, findings, contrary)
    return softmax(-np.logaddexp(0, -logit_scale * margin))  # ln σ, so that no class underflows


def finding_scores(
    joint: np.ndarray,
    findings: Sequence[np.ndarray],
    contrary: Sequence[np.ndarray],
    *,
    logit_scale: float,
) -> np.ndarray:
    """Returns a probability for each finding, float64 [N, K]: the p_k of `pair_scores`, with its arguments.

    Several findings may be present, so the p_k are not divided by their sum.
    """
    return expit(logit_scale * _margin(joint, findings, contrary))


def _margin(joint: np.ndarray, findings: Sequence[np.ndarray], contrary: Sequence[np.ndarray]) -> np.ndarray:
    return normalise(joint) @ (class_embeddings(findings) - class_embeddings(contrary)).T


def class_embeddings(prompt_embeddings: Sequence[np.ndarray]) -> np.ndarray:
    """Returns one unit vector per class [K, D]: the normalised mean of normalised prompts (CLIP §3.1.4)."""
    return normalise(np.stack([normalise(prompts).mean(axis=0) for prompts in prompt_embeddings]))


def normalise(embeddings: np.ndarray) -> np.ndarray:
    """Returns the embeddings scaled to unit length along the last axis, float64."""
    embeddings = np.asarray(embeddings, dtype=np.float64)
    return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
