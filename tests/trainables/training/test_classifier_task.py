"""The loss of baselines with several findings per image, and that of classes, equal torch's own."""

import numpy as np
import pytest
import torch
from torch import nn

from trainables.training.classifier_task import CLASSIFIER_TASKS, MAX_POSITIVE_WEIGHT

pytestmark = pytest.mark.kernels

FINDINGS, CLASSES = CLASSIFIER_TASKS["multilabel"], CLASSIFIER_TASKS["multiclass"]


def labelled() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([-1, 0, 1], np.int8), size=(12, 4), p=(0.2, 0.5, 0.3))
    logits = torch.from_numpy(rng.normal(size=(12, 4))).requires_grad_()
    return logits, torch.from_numpy(labels)


def test_the_loss_of_findings_is_torchs_over_known_labels() -> None:
    logits, labels = labelled()
    weights = torch.tensor([1.0, 2.0, 30.0, 0.5], dtype=torch.float64)
    known = labels >= 0
    dense = nn.BCEWithLogitsLoss(pos_weight=weights, reduction="none")(logits, (labels == 1).double())
    expected = dense[known].mean()
    found = FINDINGS.loss(logits, labels, FINDINGS.shares(labels, weights))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    of_found, of_expected = (torch.autograd.grad(loss, logits)[0] for loss in (found, expected))
    torch.testing.assert_close(of_found, of_expected, rtol=1e-10, atol=1e-14)
    assert (of_found[~known] == 0).all()


def test_parts_of_a_batch_add_up_to_its_loss() -> None:
    logits, labels = labelled()
    shares = FINDINGS.shares(labels, torch.ones(4, dtype=torch.float64))
    whole = FINDINGS.loss(logits, labels, shares)
    parts = [FINDINGS.loss(logits[rows], labels[rows], shares[rows]) for rows in torch.arange(12).split(5)]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=0)


def test_a_batch_without_a_known_label_has_no_loss() -> None:
    logits, labels = labelled()
    unknown = torch.full_like(labels, -1)
    loss = FINDINGS.loss(logits, unknown, FINDINGS.shares(unknown, torch.ones(4)))
    assert loss.item() == 0.0


def test_positives_weigh_as_much_as_negatives_up_to_a_limit() -> None:
    labels = np.full((1000, 3), -1, np.int8)
    labels[:100, 0], labels[:20, 0] = 0, 1  # 20 positives, 80 negatives
    labels[:, 1], labels[:2, 1] = 0, 1
    labels[:, 2] = 0
    assert FINDINGS.weights(labels, 3).tolist() == [4.0, MAX_POSITIVE_WEIGHT, MAX_POSITIVE_WEIGHT]


def test_scores_of_findings_do_not_compete() -> None:
    logits, _ = labelled()
    torch.testing.assert_close(FINDINGS.probabilities(logits), 1 / (1 + torch.exp(-logits)))
    assert CLASSES.probabilities(logits).sum(1).tolist() == pytest.approx([1.0] * 12)
