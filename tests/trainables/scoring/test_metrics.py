import numpy as np
import pytest
from plain_metrics import tied_cases
from sklearn import metrics as sk

from trainables.scoring.metrics import (
    confusion_matrix,
    explain_gaps,
    pair_name,
    point_metrics,
    running_sums,
    weighted_metrics,
)

pytestmark = pytest.mark.kernels

PAIR = {"b_vs_c": (1, 2)}


@pytest.fixture
def cases() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tied_cases()


def by_sklearn(scores: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    predicted = scores.argmax(1)
    averaged = {"average": "macro", "zero_division": 0, "sample_weight": weights}
    among = classes > 0
    share = scores[among, 2] / scores[among][:, 1:].sum(1)
    one_hot = np.eye(3)[classes]
    return {
        "accuracy": sk.accuracy_score(classes, predicted, sample_weight=weights),
        "balanced_accuracy": sk.balanced_accuracy_score(classes, predicted, sample_weight=weights),
        "macro_recall": sk.recall_score(classes, predicted, **averaged),
        "macro_precision": sk.precision_score(classes, predicted, **averaged),
        "macro_f1": sk.f1_score(classes, predicted, **averaged),
        "macro_auroc": float(
            np.mean([sk.roc_auc_score(one_hot[:, k], scores[:, k], sample_weight=weights) for k in range(3)])
        ),
        "nll": sk.log_loss(classes, scores, sample_weight=weights),
        "brier": float(np.average(((scores - one_hot) ** 2).sum(1), weights=weights)),
        "accuracy_b_vs_c": sk.accuracy_score(
            classes[among] == 2, scores[among, 2] > scores[among, 1], sample_weight=weights[among]
        ),
        "auroc_b_vs_c": sk.roc_auc_score(classes[among] == 2, share, sample_weight=weights[among]),
    }


def test_every_metric_equals_scikit_learn_under_any_weights(cases) -> None:
    scores, classes, _ = cases
    weights = np.random.default_rng(1).integers(0, 4, size=(150, 5)).astype(np.float32)
    ours = weighted_metrics(scores, classes, weights, class_pairs=PAIR)
    for draw, column in enumerate(weights.T):
        for name, expected in by_sklearn(scores, classes, column).items():
            assert ours[name][draw] == pytest.approx(expected, abs=1e-12), name


def test_a_weight_of_three_equals_three_copies(cases) -> None:
    scores, classes, _ = cases
    copies = np.random.default_rng(2).integers(0, 4, size=150)
    weighted = weighted_metrics(scores, classes, copies[:, None].astype(np.float32), class_pairs=PAIR)
    copied = point_metrics(np.repeat(scores, copies, axis=0), np.repeat(classes, copies), class_pairs=PAIR)
    assert {name: pytest.approx(value[0]) for name, value in weighted.items()} == copied


def test_calibration_error_in_closed_form() -> None:
    classes = np.array([0] * 60 + [1] * 40)
    always = np.tile([0.75, 0.25], (100, 1))  # one confidence: one bin, whatever the order of the images
    assert point_metrics(always, classes)["ece"] == pytest.approx(0.15)
    shuffled = np.random.default_rng(0).permutation(100)
    assert point_metrics(always, classes[shuffled])["ece"] == pytest.approx(0.15)
    # 15 images, 15 bins of one image each: the mean of |confidence - is right|.
    confidence = np.linspace(0.55, 0.95, 15)
    is_right = np.arange(15) % 2 == 0
    scores = np.stack([confidence, 1 - confidence], axis=1)
    expected = np.abs(confidence - is_right).mean()
    assert point_metrics(scores, np.where(is_right, 0, 1))["ece"] == pytest.approx(expected)


def test_calibrated_scores_have_a_small_calibration_error() -> None:
    rng = np.random.default_rng(8)
    scores = rng.dirichlet([1, 1, 1], size=20_000)
    classes = (rng.random((20_000, 1)) > scores.cumsum(1)).sum(1)
    assert point_metrics(scores, classes)["ece"] < 0.02
    sharpened = scores**2 / (scores**2).sum(1, keepdims=True)
    assert point_metrics(sharpened, classes)["ece"] > 0.08


def test_the_undefined_is_absent_not_a_half() -> None:
    one_class = point_metrics(np.full((5, 2), 0.5), np.zeros(5, dtype=int))
    assert "macro_auroc" not in one_class
    assert one_class["accuracy"] == 1.0
    assert "auroc_b_vs_c" not in point_metrics(
        np.full((4, 3), 1 / 3), np.array([0, 0, 1, 1]), class_pairs=PAIR
    )


def test_macro_averages_run_over_the_classes_that_occur(cases) -> None:
    scores, classes, _ = cases
    kept = classes != 1
    values = point_metrics(scores[kept], classes[kept])
    aurocs = [sk.roc_auc_score(classes[kept] == k, scores[kept, k]) for k in (0, 2)]
    assert values["macro_auroc"] == pytest.approx(np.mean(aurocs))
    (sentence,) = explain_gaps(classes[kept], ("A", "B", "C"), split="val")
    assert "0 images of class 'B'" in sentence
    assert "2 of 3 classes" in sentence


def test_confusion_matrix_has_true_classes_in_rows(cases) -> None:
    scores, classes, _ = cases
    assert (confusion_matrix(scores, classes) == sk.confusion_matrix(classes, scores.argmax(1))).all()


def test_pair_names_read_as_metric_keys() -> None:
    assert pair_name("Non-COVID", "Normal") == "non_covid_vs_normal"


@pytest.mark.parametrize("num_rows", [1, 31, 32, 33, 32 * 32 + 5])
def test_running_sums_are_cumulative(num_rows: int) -> None:
    rows = np.random.default_rng(0).integers(9, size=(num_rows, 3)).astype(np.float32)
    assert (running_sums(rows) == np.cumsum(rows, axis=0)).all()


def test_calibration_can_be_left_out(cases) -> None:
    scores, classes, _ = cases
    weights = np.ones((150, 1), np.float32)
    with_it, without = (
        weighted_metrics(scores, classes, weights, with_ece=with_ece) for with_ece in (True, False)
    )
    assert with_it.keys() - without.keys() == {"ece"}
