import logging

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from trainables.errors import DataError
from trainables.scoring.finding_metrics import point_finding_metrics
from trainables.scoring.finding_probe import FindingPath, fit_finding_path
from trainables.scoring.linear_probe import STRENGTHS, Examples

pytestmark = pytest.mark.kernels

NAMES = ("Effusion", "Mass", "Hernia", "No Finding")
MACRO = (0, 1, 2)


def draw(num_images: int, num_features: int, *, seed: int, unknown: float = 0.1) -> Examples:
    """Correlated features of a falling spectrum, and four findings: two common ones, a rare one, and none."""
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, num_features + 1) ** -0.5
    mixing = np.linalg.qr(np.random.default_rng(99).normal(size=(num_features, num_features)))[0]
    hidden = rng.normal(size=(num_images, num_features))
    logits = 2 * hidden[:, :3] + np.array([-0.5, -1.5, -3]) + rng.logistic(size=(num_images, 3))
    labels = np.concatenate([logits > 0, (logits <= 0).all(axis=1, keepdims=True)], axis=1).astype(np.int8)
    labels[rng.random(labels.shape) < unknown] = -1
    return Examples((hidden * spectrum @ mixing + 2).astype(np.float32), labels)


def fit(train: Examples, val: Examples, **options) -> FindingPath:
    return fit_finding_path(train, val, class_names=NAMES, macro=MACRO, **options)


def standardise(train: Examples, *others: Examples) -> list[np.ndarray]:
    scaler = StandardScaler().fit(train.embeddings.astype(np.float64))
    return [np.asarray(scaler.transform(part.embeddings.astype(np.float64))) for part in (train, *others)]


def objective(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, bias: float, l2: float) -> float:
    """The sum of the log losses over known labels, plus λ/2 ‖w‖², in float64."""
    known = labels >= 0
    logits = features[known] @ weights + bias
    losses = np.logaddexp(0, np.where(labels[known] == 1, -logits, logits))
    return losses.sum() + l2 / 2 * weights @ weights


@pytest.mark.parametrize("num_features", [12, 300], ids=["fewer features", "more features than images"])
def test_the_objective_equals_scikit_learns_at_every_strength(num_features: int) -> None:
    train, val = draw(150, num_features, seed=0), draw(60, num_features, seed=1)
    mean, scale = (getattr(train.embeddings, name)(axis=0, dtype=np.float64) for name in ("mean", "std"))
    both = np.concatenate(standardise(train, val))
    labels = np.concatenate([train.classes, val.classes])
    for l2 in STRENGTHS[::8]:
        path = fit(train, val, l2=l2)
        assert path.num_unconverged == 0
        weights = path.classifier.weights * scale[:, None]  # on standardised features
        bias = path.classifier.bias + mean @ path.classifier.weights
        for k in range(len(NAMES)):
            known = labels[:, k] >= 0
            theirs = LogisticRegression(C=1 / l2, tol=1e-12, max_iter=500, solver="newton-cholesky")
            theirs.fit(both[known], labels[known, k])
            expected = objective(both, labels[:, k], theirs.coef_[0], np.asarray(theirs.intercept_)[0], l2)
            ours = objective(both, labels[:, k], weights[:, k], float(bias[k]), l2)
            assert ours == pytest.approx(expected, rel=1e-6), (l2, NAMES[k])


def test_the_scores_are_scikit_learns_probabilities() -> None:
    train, val, test = (draw(n, 12, seed=s) for s, n in enumerate((150, 60, 40)))
    path = fit(train, val, l2=10.0)
    of_train, of_val, of_test = standardise(train, val, test)
    for k in range(len(NAMES)):
        known = train.classes[:, k] >= 0
        theirs = LogisticRegression(C=0.1, tol=1e-9).fit(of_train[known], train.classes[known, k])
        assert path.val_scores[:, k] == pytest.approx(theirs.predict_proba(of_val)[:, 1], abs=1e-3)
        features, labels = np.concatenate([of_train, of_val]), np.concatenate([train.classes, val.classes])
        known = labels[:, k] >= 0
        theirs = LogisticRegression(C=0.1, tol=1e-9).fit(features[known], labels[known, k])
        of_refit = path.scores(test.embeddings)[:, k]
        assert of_refit == pytest.approx(theirs.predict_proba(of_test)[:, 1], abs=1e-3)


def auroc(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    known = labels[:, k] >= 0
    return float(roc_auc_score(labels[known, k], scores[known, k]))


def test_the_shared_strength_is_the_one_with_the_best_macro_of_the_path() -> None:
    train, val = draw(150, 40, seed=0), draw(100, 40, seed=1)
    path = fit(train, val)
    assert len(path.fits) <= 15
    assert path.chosen in path.fits
    assert path.chosen.metrics["macro_auroc"] == max(fit.metrics["macro_auroc"] for fit in path.fits)
    expected = point_finding_metrics(path.val_scores, val.classes)
    assert path.chosen.metrics == pytest.approx({name: expected[name] for name in path.chosen.metrics})
    assert {"macro_auroc", "macro_ap", "nll"} <= set(path.chosen.metrics)
    assert set(path.l2_of_finding) == {path.l2}


def test_each_finding_may_choose_its_own_strength() -> None:
    train, val = draw(150, 40, seed=0), draw(100, 40, seed=1)
    shared, own = fit(train, val), fit(train, val, per_finding=True)
    assert len(set(own.l2_of_finding)) > 1
    assert set(own.l2_of_finding) <= set(STRENGTHS)
    for k in range(len(NAMES)):
        of_own, of_shared = (auroc(path.val_scores, val.classes, k) for path in (own, shared))
        assert of_own >= of_shared - 0.02  # a search of 15 strengths may miss the peak of a ragged curve
        alone = fit_finding_path(
            Examples(train.embeddings, train.classes[:, [k]]),
            Examples(val.embeddings, val.classes[:, [k]]),
            class_names=[NAMES[k]],
            macro=[0],
        )
        assert alone.l2 == own.l2_of_finding[k]
        assert alone.val_scores[:, 0] == pytest.approx(own.val_scores[:, k], abs=1e-3)
    assert own.chosen in own.fits


def test_a_finding_that_train_lacks_gets_its_prior_and_a_warning(caplog) -> None:
    train, val = draw(150, 12, seed=0), draw(60, 12, seed=1)
    labels = train.classes.copy()
    labels[labels[:, 2] == 1, 2] = 0
    with caplog.at_level(logging.WARNING):
        path = fit(Examples(train.embeddings, labels), val, l2=1.0)
    assert "'train' has 0 positives for finding 'Hernia'" in caplog.text
    num_known = (labels[:, 2] >= 0).sum()
    assert path.val_scores[:, 2] == pytest.approx(np.full(60, 1 / (num_known + 2)))
    assert np.ptp(path.scores(val.embeddings)[:, 2]) > 0  # val has positives, so the refit learns


def test_a_finding_that_val_cannot_judge_takes_the_median_strength() -> None:
    train, val = draw(150, 12, seed=0), draw(60, 12, seed=1)
    labels = val.classes.copy()
    labels[:, 2] = -1
    path = fit(train, Examples(val.embeddings, labels), per_finding=True)
    others = [path.l2_of_finding[k] for k in (0, 1, 3)]
    assert path.l2_of_finding[2] == sorted(others)[1]
    assert "macro_auroc" in path.chosen.metrics


def test_a_split_on_which_nothing_can_be_judged_is_refused() -> None:
    train, val = draw(150, 12, seed=0), draw(60, 12, seed=1)
    nothing = Examples(val.embeddings, np.zeros_like(val.classes))
    with pytest.raises(DataError, match="macro_auroc is undefined on split 'val'"):
        fit(train, nothing)
    with pytest.raises(DataError, match="'val' has no images"):
        fit(train, Examples(val.embeddings[:0], val.classes[:0]))


def test_the_solver_survives_constant_and_repeated_features() -> None:
    train, val = draw(150, 12, seed=0), draw(60, 12, seed=1)
    padded = [
        Examples(np.concatenate([e, e[:, :3], np.full((len(e), 1), 0.3, np.float32)], axis=1), labels)
        for e, labels in (train, val)
    ]
    path = fit(*padded, l2=1e-6)
    assert path.num_unconverged == 0
    assert np.isfinite(path.val_scores).all()
