import numpy as np
import pytest
from sklearn import metrics as sk

from trainables.metrics import (
    bootstrap,
    confusion_matrix,
    explain_gaps,
    interval_metrics,
    intervals,
    pair_name,
    paired_difference,
    patient_weights,
    point_metrics,
    to_metrics,
    weighted_metrics,
)

PAIR = {"b_vs_c": (1, 2)}


@pytest.fixture
def cases() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with many ties, classes and patients of 150 images."""
    rng = np.random.default_rng(0)
    classes = rng.choice(3, size=150, p=(0.2, 0.5, 0.3))
    logits = np.round(rng.normal(size=(150, 3)), 1) + 1.5 * np.eye(3)[classes]
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    patients = np.array([f"p{i}" for i in rng.integers(60, size=150)])
    return np.round(scores, 2) / np.round(scores, 2).sum(1, keepdims=True), classes, patients


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
    weights = np.random.default_rng(1).integers(0, 4, size=(5, 150)).astype(float)
    ours = weighted_metrics(scores, classes, weights, class_pairs=PAIR)
    for draw, row in enumerate(weights):
        for name, expected in by_sklearn(scores, classes, row).items():
            assert ours[name][draw] == pytest.approx(expected, abs=1e-12), name


def test_a_weight_of_three_equals_three_copies(cases) -> None:
    scores, classes, _ = cases
    copies = np.random.default_rng(2).integers(0, 4, size=150)
    weighted = weighted_metrics(scores, classes, copies[None].astype(float), class_pairs=PAIR)
    copied = point_metrics(np.repeat(scores, copies, axis=0), np.repeat(classes, copies), class_pairs=PAIR)
    assert {name: pytest.approx(value[0]) for name, value in weighted.items()} == copied


def test_bootstrap_equals_resampling_whole_patients(cases) -> None:
    scores, classes, patients = cases
    draws = bootstrap(scores, classes, patients, seed=5, num_draws=30)
    weights = np.concatenate(list(patient_weights(patients, seed=5, num_draws=30)))
    assert (weights[0] == 1).all()
    for draw in range(1, 31):
        times = {patient: int(weights[draw][patients == patient][0]) for patient in set(patients)}
        assert sum(times.values()) == len(times), "as many patients as there are, with replacement"
        rows = np.concatenate([np.flatnonzero(patients == p) for p, n in times.items() for _ in range(n)])
        again = by_sklearn(scores[rows], classes[rows], np.ones(len(rows)))
        for name in ("accuracy", "macro_f1", "macro_auroc", "nll"):
            assert draws[name][draw] == pytest.approx(again[name])


def test_draws_do_not_depend_on_how_many_fit_in_memory(cases, monkeypatch) -> None:
    scores, classes, patients = cases
    at_once = bootstrap(scores, classes, patients, num_draws=40)
    monkeypatch.setattr("trainables.metrics.ELEMENTS_AT_ONCE", 7 * len(classes))
    in_parts = bootstrap(scores, classes, patients, num_draws=40)
    for name, values in at_once.items():
        assert values == pytest.approx(in_parts[name]), name


def test_images_of_one_patient_are_one_observation() -> None:
    rng = np.random.default_rng(3)
    classes, scores = rng.integers(2, size=80), rng.dirichlet([1, 1], size=80)
    once = interval_metrics(scores, classes, np.arange(80).astype(str))
    fourfold = interval_metrics(
        np.repeat(scores, 4, axis=0), np.repeat(classes, 4), np.repeat(np.arange(80).astype(str), 4)
    )
    assert fourfold["accuracy"] == pytest.approx(once["accuracy"])
    assert fourfold["macro_auroc"] == pytest.approx(once["macro_auroc"])


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for study in range(300):
        right_of_patient = rng.random(60) < 0.7
        is_right = np.repeat(right_of_patient, 3)  # three images a patient, all alike: the hard case
        classes = rng.integers(2, size=180)
        scores = np.where((classes == is_right)[:, None], (0.2, 0.8), (0.8, 0.2))
        patients = np.repeat(np.arange(60).astype(str), 3)
        low, high = interval_metrics(scores, classes, patients, seed=study, num_draws=200)["accuracy"][1:]
        covered += low <= 0.7 <= high
    # Binomial(300, .95) has sd .013; the percentile interval is a little narrow at 60 patients.
    assert 0.90 <= covered / 300 <= 0.985


def test_order_of_rows_changes_nothing(cases) -> None:
    scores, classes, patients = cases
    shuffled = np.random.default_rng(6).permutation(150)
    one = interval_metrics(scores, classes, patients)
    other = interval_metrics(scores[shuffled], classes[shuffled], patients[shuffled])
    assert {name: pytest.approx(interval) for name, interval in one.items()} == other


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


def test_draws_that_lose_a_class_are_skipped() -> None:
    classes = np.array([0] * 19 + [1])  # in about 36 % of draws the only positive is not there
    scores = np.stack([np.linspace(1, 0.5, 20), np.linspace(0, 0.5, 20)], axis=1)
    patients = np.arange(20).astype(str)
    draws = bootstrap(scores, classes, patients, num_draws=1000)
    assert 0.30 < np.isnan(draws["macro_auroc"]).mean() < 0.42
    assert np.isnan(draws["macro_f1"]).mean() == np.isnan(draws["macro_auroc"]).mean()
    assert intervals(draws)["macro_auroc"] == (1.0, 1.0, 1.0)


def test_an_interval_from_under_half_of_the_draws_is_withheld() -> None:
    draws = {"macro_auroc": np.array([0.7] + [np.nan] * 6 + [0.6] * 4)}
    flat = to_metrics("val/probe_joint", intervals(draws))
    assert flat == {"val/probe_joint/macro_auroc": 0.7}


def test_difference_is_paired(cases) -> None:
    scores, classes, patients = cases
    rng = np.random.default_rng(9)
    worse = rng.dirichlet([3, 3, 3], size=150) * 0.5 + scores * 0.5
    of_a, of_b = (bootstrap(s, classes, patients, seed=1) for s in (scores, worse))
    found = paired_difference(scores, worse, classes, patients, seed=1)
    direct = of_a["accuracy"] - of_b["accuracy"]
    assert found["accuracy"] == pytest.approx((direct[0], *np.percentile(direct[1:], (2.5, 97.5))))
    cut = 1 - (1 - of_a["macro_auroc"][0]) / (1 - of_b["macro_auroc"][0])
    assert found["error_cut_macro_auroc"].value == pytest.approx(cut)
    errors = [(s.argmax(1) != classes).sum() for s in (scores, worse)]
    assert found["error_cut"].value == pytest.approx(1 - errors[0] / errors[1])


def test_a_system_differs_from_itself_by_nothing(cases) -> None:
    scores, classes, patients = cases
    found = paired_difference(scores, scores, classes, patients)
    assert all(interval == (0, 0, 0) for interval in found.values())


def test_seeds_are_averaged_and_share_their_draws(cases) -> None:
    scores, classes, patients = cases
    seeds = np.stack([scores, np.roll(scores, 1, axis=0), scores[:, ::-1]])
    together = bootstrap(seeds, classes, patients, num_draws=50)
    alone = [bootstrap(one, classes, patients, num_draws=50) for one in seeds]
    for name, values in together.items():
        assert values == pytest.approx(np.mean([draws[name] for draws in alone], axis=0), nan_ok=True), name


def test_confusion_matrix_has_true_classes_in_rows(cases) -> None:
    scores, classes, _ = cases
    assert (confusion_matrix(scores, classes) == sk.confusion_matrix(classes, scores.argmax(1))).all()


def test_pair_names_read_as_metric_keys() -> None:
    assert pair_name("Non-COVID", "Normal") == "non_covid_vs_normal"
