import numpy as np
import pytest
from plain_findings import FINDINGS, plain_finding, plain_macro, tied_findings
from plain_metrics import resampled

from trainables.scoring.bootstrap import Bootstrap, intervals, over_draws, p_value, paired_draws
from trainables.scoring.finding_metrics import (
    explain_finding_gaps,
    macro_averages,
    metrics_by_finding,
    point_finding_metrics,
)
from trainables.scoring.metric_names import range_of
from trainables.scoring.tasks import TASKS, task_of

pytestmark = pytest.mark.kernels


def draw_weights(num_images: int = 150, num_draws: int = 6) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4, size=(num_images, num_draws)).astype(np.float32)


def test_each_finding_equals_scikit_learn_under_any_weights_with_unknown_labels() -> None:
    scores, labels, _ = tied_findings()
    weights = draw_weights()
    assert (labels == -1).any(0).all()
    assert len(np.unique(scores[:, 0])) < len(scores), "there are ties"
    found = metrics_by_finding(scores, labels, weights)
    for draw, column in enumerate(weights.T):
        for k in range(labels.shape[1]):
            expected = plain_finding(scores[:, k], labels[:, k], column)
            assert set(expected) == {name for name in found if not np.isnan(found[name][draw, k])}
            for name, value in expected.items():
                assert found[name][draw, k] == pytest.approx(value, abs=1e-12), (name, k)


def test_every_draw_averages_the_findings_that_it_can_score() -> None:
    scores, labels, patients = tied_findings()
    draws = Bootstrap(labels, patients, seed=5, num_draws=60).metrics(scores)
    num_lost = 0
    for draw, rows in enumerate(resampled(patients, seed=5, num_draws=60)):
        expected = plain_macro(scores[rows], labels[rows], np.ones(len(rows)))
        num_lost += not (labels[rows, 2] == 1).any()
        if not (labels[rows, 2] == 1).any():  # a draw without the rare finding still has its Brier score
            expected = {name: expected[name] for name in ("macro_auroc", "macro_ap")}
        for name, value in expected.items():
            assert draws[name][draw] == pytest.approx(value, abs=1e-12), (draw, name)
    assert 0 < num_lost < 60
    assert not any(np.isnan(values).any() for values in draws.values())


def test_blocks_of_draws_agree_which_findings_the_macro_covers(monkeypatch) -> None:
    scores, labels, patients = tied_findings()
    at_once = Bootstrap(labels, patients, num_draws=60).draws(scores)
    monkeypatch.setattr("trainables.scoring.bootstrap.ELEMENTS_AT_ONCE", 7 * len(labels))
    in_parts = Bootstrap(labels, patients, num_draws=60)
    assert len(in_parts.weights) > 5
    found = in_parts.draws(scores)
    for expected, values in zip(at_once, found, strict=True):
        for name in expected:
            np.testing.assert_allclose(values[name], expected[name], rtol=1e-12, err_msg=name)
    assert found.by_finding["auroc"].shape == (61, 4)


@pytest.mark.parametrize("kind", [1, 0, -1])
def test_a_finding_with_labels_of_one_kind_is_undefined_and_in_no_average(kind: int) -> None:
    scores, labels, _ = tied_findings()
    labels[:, 1] = np.where(labels[:, 1] == -1, -1, kind)
    found = metrics_by_finding(scores, labels, draw_weights())
    assert all(np.isnan(values[:, 1]).all() for values in found.values())
    kept = [0, 2, 3]
    averages = point_finding_metrics(scores, labels)
    expected = point_finding_metrics(scores[:, kept], labels[:, kept])
    assert averages == expected
    assert set(averages) == {"macro_auroc", "macro_ap", "nll", "brier", "ece"}


def test_no_finding_is_scored_but_in_no_average() -> None:
    scores, labels, _ = tied_findings()
    found = metrics_by_finding(scores, labels, np.ones((150, 1), np.float32))
    averages = macro_averages(found, labels)
    assert averages["macro_auroc"][0] == pytest.approx(found["auroc"][0, :3].mean())
    assert found["auroc"][0, 3] != found["auroc"][0, :3].mean()
    scores[:, 3] = 0.5
    assert point_finding_metrics(scores, labels) == {name: value[0] for name, value in averages.items()}


def test_without_any_defined_finding_no_metric_remains() -> None:
    scores, labels, patients = tied_findings()
    labels[:, :3] = 0
    assert point_finding_metrics(scores, labels) == {}
    assert intervals(Bootstrap(labels, patients, num_draws=20).metrics(scores)) == {}


def test_a_draw_without_any_known_label_is_undefined() -> None:
    scores, labels, _ = tied_findings()
    labels[:75, 0] = -1
    weights = np.zeros((150, 1), np.float32)
    weights[:75] = 1
    found = metrics_by_finding(scores, labels, weights)
    assert all(np.isnan(values[0, 0]) for values in found.values())
    assert not any(np.isnan(values[0, 1]) for values in found.values())


def test_gaps_are_explained_with_counts() -> None:
    _, labels, _ = tied_findings()
    assert explain_finding_gaps(labels, FINDINGS, split="val") == []
    labels[:, 2] = 0
    labels[:30, 2] = -1
    labels[:, 3] = 1
    rare, normal = explain_finding_gaps(labels, FINDINGS, split="val")
    assert "split 'val' has 0 positive images, 120 negative images and 30 unknown labels of 'Hernia'" in rare
    assert "2 of 3 findings" in rare
    assert "150 positive images, 0 negative images of 'No Finding'" in normal
    assert "macro" not in normal


def test_a_difference_of_averages_is_paired() -> None:
    scores, labels, patients = tied_findings()
    worse = np.clip(scores + np.random.default_rng(2).normal(scale=0.3, size=scores.shape), 0.01, 0.99)
    bootstrap = Bootstrap(labels, patients, seed=1, num_draws=200)
    of_a, of_b = bootstrap.metrics(scores), bootstrap.metrics(worse)
    paired = paired_draws(of_a, of_b)
    direct = of_a["macro_auroc"] - of_b["macro_auroc"]
    value, low, high = intervals(paired)["macro_auroc"]
    assert (value, low, high) == pytest.approx((direct[0], *np.percentile(direct[1:], (2.5, 97.5))))
    assert low > 0
    p = p_value(paired["macro_auroc"])
    assert p is not None
    assert p < 0.05
    cut = 1 - (1 - of_a["macro_auroc"][0]) / (1 - of_b["macro_auroc"][0])
    assert intervals(paired)["error_cut_macro_auroc"].value == pytest.approx(cut)
    assert {"macro_ap", "nll", "brier", "ece"} < set(paired)
    assert all((values == 0).all() for values in paired_draws(of_a, of_a).values())


def test_targets_say_their_task() -> None:
    scores, labels, patients = tied_findings()
    assert task_of(labels) is TASKS["multilabel"]
    assert task_of(np.zeros(3, np.int64)) is TASKS["multiclass"]
    of_classes = Bootstrap(np.arange(150) % 4, patients, num_draws=5).draws(scores)
    assert of_classes.by_finding == {}
    assert "accuracy" in of_classes.overall


@pytest.mark.parametrize("name", ["macro_auroc", "macro_ap", "nll", "brier", "ece"])
def test_an_interval_holds_its_value_inside_the_range_for_findings(name: str) -> None:
    scores, labels, patients = tied_findings(40)
    value, low, high = Bootstrap(labels, patients, num_draws=200).intervals(scores)[name]
    smallest, largest = range_of(name, "multilabel")
    assert smallest <= low <= value <= high <= largest


def test_a_mean_of_brier_scores_of_findings_is_at_most_one() -> None:
    assert over_draws([{"brier": 0.1}, {"brier": 0.9}], "multilabel")["brier"].high == 1
    assert over_draws([{"brier": 0.1}, {"brier": 0.9}])["brier"].high == 2
