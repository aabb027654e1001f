from itertools import combinations

import numpy as np
import pytest
from plain_metrics import difference, plain_metrics, resampled, tied_cases

from trainables.scoring.bootstrap import (
    Bootstrap,
    average,
    intervals,
    over_draws,
    p_value,
    paired_draws,
    to_metrics,
)
from trainables.scoring.metric_names import range_of

pytestmark = pytest.mark.kernels


@pytest.fixture
def cases() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tied_cases()


def test_every_draw_equals_its_plain_definition(cases) -> None:
    scores, classes, patients = cases
    pairs = {f"{a}_vs_{b}": (a, b) for a, b in combinations(range(3), 2)}
    draws = Bootstrap(classes, patients, seed=5, num_draws=40, class_pairs=pairs).metrics(scores)
    for draw, rows in enumerate(resampled(patients, seed=5, num_draws=40)):
        for name, expected in plain_metrics(scores[rows], classes[rows]).items():
            assert draws[name][draw] == pytest.approx(expected, rel=1e-12, abs=1e-14), (draw, name)


def test_draws_do_not_depend_on_how_many_fit_in_memory(cases, monkeypatch) -> None:
    scores, classes, patients = cases
    at_once = Bootstrap(classes, patients, num_draws=40).metrics(scores)
    monkeypatch.setattr("trainables.scoring.bootstrap.ELEMENTS_AT_ONCE", 7 * len(classes))
    in_parts = Bootstrap(classes, patients, num_draws=40)
    assert len(in_parts.weights) > 5
    for name, values in in_parts.metrics(scores).items():
        assert values == pytest.approx(at_once[name], rel=1e-12), name


def test_images_of_one_patient_are_one_observation() -> None:
    rng = np.random.default_rng(3)
    classes, scores = rng.integers(2, size=80), rng.dirichlet([1, 1], size=80)
    once = Bootstrap(classes, np.arange(80).astype(str)).intervals(scores)
    fourfold = Bootstrap(np.repeat(classes, 4), np.repeat(np.arange(80).astype(str), 4)).intervals(
        np.repeat(scores, 4, axis=0)
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
        low, high = Bootstrap(classes, patients, seed=study, num_draws=200).intervals(scores)["accuracy"][1:]
        covered += low <= 0.7 <= high
    # Binomial(300, .95) has sd .013; the percentile interval is a little narrow at 60 patients.
    assert 0.90 <= covered / 300 <= 0.985


def test_order_of_rows_changes_nothing(cases) -> None:
    scores, classes, patients = cases
    shuffled = np.random.default_rng(6).permutation(150)
    one = Bootstrap(classes, patients).intervals(scores)
    other = Bootstrap(classes[shuffled], patients[shuffled]).intervals(scores[shuffled])
    assert {name: pytest.approx(interval) for name, interval in one.items()} == other


def test_draws_that_lose_a_class_are_skipped() -> None:
    classes = np.array([0] * 19 + [1])  # in about 36 % of draws the only positive is not there
    scores = np.stack([np.linspace(1, 0.5, 20), np.linspace(0, 0.5, 20)], axis=1)
    patients = np.arange(20).astype(str)
    draws = Bootstrap(classes, patients).metrics(scores)
    assert 0.30 < np.isnan(draws["macro_auroc"]).mean() < 0.42
    assert np.isnan(draws["macro_f1"]).mean() == np.isnan(draws["macro_auroc"]).mean()
    assert intervals(draws)["macro_auroc"] == (1.0, 1.0, 1.0)


def test_an_interval_from_under_half_of_the_draws_is_withheld() -> None:
    draws = {"macro_auroc": np.array([0.7] + [np.nan] * 6 + [0.6] * 4)}
    flat = to_metrics("val", "probe_joint", intervals(draws))
    assert flat == {"val/probe_joint/macro_auroc": 0.7}


def test_difference_is_paired(cases) -> None:
    scores, classes, patients = cases
    rng = np.random.default_rng(9)
    worse = rng.dirichlet([3, 3, 3], size=150) * 0.5 + scores * 0.5
    bootstrap = Bootstrap(classes, patients, seed=1)
    of_a, of_b = bootstrap.metrics(scores), bootstrap.metrics(worse)
    found = difference(scores, worse, bootstrap)
    direct = of_a["accuracy"] - of_b["accuracy"]
    assert found["accuracy"] == pytest.approx((direct[0], *np.percentile(direct[1:], (2.5, 97.5))))
    cut = 1 - (1 - of_a["macro_auroc"][0]) / (1 - of_b["macro_auroc"][0])
    assert found["error_cut_macro_auroc"].value == pytest.approx(cut)
    errors = [(s.argmax(1) != classes).sum() for s in (scores, worse)]
    assert found["error_cut"].value == pytest.approx(1 - errors[0] / errors[1])


def test_a_system_differs_from_itself_by_nothing(cases) -> None:
    scores, classes, patients = cases
    found = difference(scores, scores, Bootstrap(classes, patients))
    assert all(interval == (0, 0, 0) for interval in found.values())


def test_seeds_are_averaged_under_the_same_draws(cases) -> None:
    scores, classes, patients = cases
    bootstrap = Bootstrap(classes, patients, num_draws=50)
    alone = [bootstrap.metrics(one) for one in (scores, np.roll(scores, 1, axis=0), scores[:, ::-1])]
    together = average(alone)
    for name, values in together.items():
        assert values == pytest.approx(np.mean([draws[name] for draws in alone], axis=0)), name


@pytest.mark.parametrize("num_images", [6, 30, 150])
def test_every_interval_holds_its_value_inside_the_range_of_its_metric(num_images: int) -> None:
    rng = np.random.default_rng(num_images)
    classes = rng.integers(3, size=num_images)
    scores = rng.dirichlet([0.3, 0.3, 0.3], size=num_images)
    found = Bootstrap(classes, np.arange(num_images).astype(str)).intervals(scores)
    for name, (value, low, high) in found.items():
        smallest, largest = range_of(name)
        assert smallest <= low <= value <= high <= largest, name


def test_the_interval_of_a_calibration_error_lies_around_it_though_draws_lie_above() -> None:
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.5, 1, size=60)
    classes = (rng.random(60) > confidence).astype(np.int64)  # calibrated
    bootstrap = Bootstrap(classes, np.arange(60).astype(str))
    draws = bootstrap.metrics(np.stack([confidence, 1 - confidence], axis=1))["ece"]
    assert np.median(draws[1:]) > draws[0], "each draw repeats images, which counts as miscalibration"
    value, low, high = intervals({"ece": draws})["ece"]
    assert low < value < high
    assert high < np.percentile(draws[1:], 97.5)


def test_a_mean_over_draws_stays_inside_the_range() -> None:
    found = over_draws([{"macro_auroc": 0.82, "only here": 1.0}, {"macro_auroc": 0.98}])
    assert found == {"macro_auroc": (pytest.approx(0.9), 0.0, 1.0)}


@pytest.mark.parametrize("shift", [-0.3, 0.0, 0.3])
def test_a_p_value_agrees_with_the_interval(cases, shift: float) -> None:
    scores, classes, patients = cases
    bootstrap = Bootstrap(classes, patients)
    better = (1 - abs(shift)) * scores + abs(shift) * np.eye(3)[classes]
    pair = (better, scores) if shift > 0 else (scores, better)
    draws = paired_draws(*(bootstrap.metrics(each) for each in pair))
    for name in ("accuracy", "macro_auroc", "nll"):
        _, low, high = intervals(draws)[name]
        p = p_value(draws[name])
        assert p is not None
        assert (p < 0.05) == (not low <= 0 <= high), name
        assert 0 <= p <= 1


def test_a_p_value_is_not_limited_by_the_number_of_draws() -> None:
    draws = np.array([0.4, *np.random.default_rng(0).normal(0.4, 0.05, size=200)])
    p = p_value(draws)
    assert p is not None
    assert p < 1e-9
    assert p_value(np.array([0.4, np.nan, np.nan, 0.3])) is None
