"""Zero-shot scores: prompts of every class, averaged on the sphere, against image embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainables.scoring.logistic import softmax


def zero_shot_scores(
    joint: np.ndarray, prompt_embeddings: Sequence[np.ndarray], *, logit_scale: float
) -> np.ndarray:
    """Returns class probabilities float64 [N, K]: softmax of logit_scale × cosine.

    Args:
        joint: [N, D] image embeddings; normalised here.
        prompt_embeddings: one [n_k, D] per class, n_k ≥ 1.
        logit_scale: the multiplier, not its logarithm. It moves probabilities, never a prediction.
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

    p_k = σ(logit_scale × (cosine to the finding − cosine to the contrary)), as in CheXzero (Tiu et al. 2022),
    then divided by their sum, as classes exclude each other.

    Args:
        joint: [N, D] image embeddings; normalised here.
        findings: one [n_k, D] per class, n_k ≥ 1; averaged on the sphere.
        contrary: the same.
        logit_scale: the multiplier, not its logarithm.
    """
    images = normalise(joint)
    margin = images @ (class_embeddings(findings) - class_embeddings(contrary)).T
    return softmax(-np.logaddexp(0, -logit_scale * margin))  # ln σ, so that no class underflows


def class_embeddings(prompt_embeddings: Sequence[np.ndarray]) -> np.ndarray:
    """Returns a unit vector per class [K, D]: prompts normalised, their mean, renormalised (CLIP §3.1.4)."""
    return normalise(np.stack([normalise(prompts).mean(axis=0) for prompts in prompt_embeddings]))


def normalise(embeddings: np.ndarray) -> np.ndarray:
    """Returns unit vectors, float64, along the last axis."""
    embeddings = np.asarray(embeddings, dtype=np.float64)
    return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
