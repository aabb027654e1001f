import logging
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from trainables.config import ProbeConfig
from trainables.data.records import Dataset, ImageRecord
from trainables.errors import DataError, TrainingDiverged
from trainables.scoring.bootstrap import Bootstrap
from trainables.scoring.embedding_store import EmbeddingTable
from trainables.scoring.linear_probe import STRENGTHS, Examples, bisect, fit_path
from trainables.scoring.metrics import point_metrics
from trainables.scoring.probes import check_embeddings, probe_embeddings, probe_predictions, write_probe_path

pytestmark = pytest.mark.kernels

CLASSES = ("A", "B", "C")


def draw(
    num_images: int, num_features: int, *, seed: int, effect: float = 0.5, num_classes: int = 3
) -> Examples:
    """Correlated features of a falling spectrum, as an encoder's; classes differ in the first directions."""
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, num_features + 1) ** -0.5
    mixing = np.linalg.qr(np.random.default_rng(99).normal(size=(num_features, num_features)))[0]
    classes = rng.integers(num_classes, size=num_images)
    hidden = rng.normal(size=(num_images, num_features))
    hidden[:, :num_classes] += effect * np.eye(num_classes)[classes] * 3
    return Examples((hidden * spectrum @ mixing + 2).astype(np.float32), classes)


def standardise(train: Examples, *others: Examples) -> list[np.ndarray]:
    scaler = StandardScaler().fit(train.embeddings.astype(np.float64))
    return [scaler.transform(part.embeddings.astype(np.float64)) for part in (train, *others)]


def optimum(features: np.ndarray, classes: np.ndarray, l2: float) -> LogisticRegression:
    """scikit-learn's answer: cold, in float64, by a direct solver, to a tight tolerance."""
    return LogisticRegression(C=1 / l2, tol=1e-9, max_iter=500, solver="newton-cholesky").fit(
        features, classes
    )


def joined(one: Examples, other: Examples) -> Examples:
    return Examples(*(np.concatenate(parts) for parts in zip(one, other, strict=True)))


WIDTHS = pytest.mark.parametrize(
    "num_features", [10, 150], ids=["fewer features", "more features than images"]
)


@WIDTHS
@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_fit_equals_scikit_learns_own(num_features: int, num_classes: int) -> None:
    parts = [draw(n, num_features, seed=s, num_classes=num_classes) for s, n in enumerate((80, 30, 40))]
    train, val, test = parts
    path = fit_path(train, val, class_names=CLASSES[:num_classes], l2=30.0)
    of_train, of_val, of_test = standardise(*parts)
    # Gradients within 1e-4 leave weights within n/λ of that: 3e-4, and logits within a few times as much.
    expected = optimum(of_train, train.classes, 30.0).predict_proba(of_val)
    assert path.val_scores == pytest.approx(expected, abs=2e-3)
    both, classes = np.concatenate([of_train, of_val]), np.concatenate([train.classes, val.classes])
    expected = optimum(both, classes, 30.0).predict_proba(of_test)
    assert path.scores(test.embeddings) == pytest.approx(expected, abs=2e-3)


@WIDTHS
@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0, 1e4])
def test_every_strength_meets_the_tolerance(num_features: int, l2: float) -> None:
    train, val = draw(80, num_features, seed=0), draw(30, num_features, seed=1)
    path = fit_path(train, val, class_names=CLASSES, l2=l2)
    features, classes = np.concatenate(standardise(train, val)), np.concatenate([train.classes, val.classes])
    deviation = train.embeddings.std(axis=0, dtype=np.float64)
    weights = path.classifier.weights * deviation[:, None]  # on standardised features
    surplus = path.scores(np.concatenate([train.embeddings, val.embeddings])) - np.eye(3)[classes]
    gradient = (features.T @ surplus + l2 * weights) / len(classes)
    # 1e-4 holds in each of at most 110 x 3 coordinates, which may be turned: so it bounds the length alone.
    assert np.linalg.norm(gradient) < 1e-4 * np.sqrt(110 * 3)


def test_bisection_finds_any_single_peak_in_at_most_15_fits() -> None:
    for peak in range(97):
        seen: list[float] = []

        def rank(strength: float, peak: int = peak, seen: list[float] = seen) -> tuple[float, float]:
            seen.append(strength)
            return -(abs(STRENGTHS.index(strength) - peak) ** 1.5), 0.0

        assert bisect(rank) == STRENGTHS[peak]
        assert len(seen) == len(set(seen)) <= 15


def test_bisection_never_exceeds_15_fits_on_noise() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        seen: list[float] = []

        def rank(strength: float, seen: list[float] = seen) -> tuple[float, float]:
            seen.append(strength)
            return float(rng.integers(4)), 0.0

        bisect(rank)
        assert len(seen) == len(set(seen)) <= 15


def test_grid_is_clips() -> None:
    assert len(STRENGTHS) == 97
    assert STRENGTHS[0] == pytest.approx(1e-6)
    assert STRENGTHS[-1] == pytest.approx(1e6)
    assert np.diff(np.log10(STRENGTHS)) == pytest.approx(np.full(96, 1 / 8))


def test_bisection_chooses_what_the_full_grid_chooses() -> None:
    train, val = draw(70, 12, seed=0), draw(60, 12, seed=1)
    path = fit_path(train, val, class_names=CLASSES, objective="nll")
    of_train, of_val = standardise(train, val)
    by_l2 = {}
    for l2 in STRENGTHS:
        scores = optimum(of_train, train.classes, l2).predict_proba(of_val)
        by_l2[l2] = point_metrics(scores, val.classes)["nll"]
    assert path.l2 == min(by_l2, key=lambda l2: by_l2[l2])
    assert len(path.fits) == 15
    assert path.chosen in path.fits


def test_equal_aurocs_are_told_apart_by_likelihood() -> None:
    train, val = draw(60, 4, seed=0, effect=6), draw(40, 4, seed=1, effect=6)
    path = fit_path(train, val, class_names=CLASSES)
    perfect = [fit for fit in path.fits if fit.metrics["macro_auroc"] == 1.0]
    assert len(perfect) > 3
    assert path.chosen.metrics["nll"] == min(fit.metrics["nll"] for fit in perfect)


def test_a_fixed_strength_is_one_fit() -> None:
    path = fit_path(draw(60, 5, seed=0), draw(30, 5, seed=1), class_names=CLASSES, l2=3.0)
    assert [fit.l2 for fit in path.fits] == [3.0]


def test_the_refit_learns_from_val_and_the_choice_does_not() -> None:
    train, val = draw(60, 5, seed=0), draw(300, 5, seed=1)
    path = fit_path(train, val, class_names=CLASSES, l2=1.0)
    of_val = path.scores(val.embeddings)
    assert point_metrics(of_val, val.classes)["nll"] < point_metrics(path.val_scores, val.classes)["nll"]
    assert path.chosen.metrics == point_metrics(path.val_scores, val.classes)


def test_features_scale_and_shift_change_nothing() -> None:
    train, val = draw(60, 8, seed=0), draw(40, 8, seed=1)
    scale, shift = np.geomspace(1e-3, 1e3, 8), np.arange(8)
    moved = [Examples(part.embeddings * scale + shift, part.classes) for part in (train, val)]
    plain = fit_path(train, val, class_names=CLASSES, l2=1.0).val_scores
    assert fit_path(*moved, class_names=CLASSES, l2=1.0).val_scores == pytest.approx(plain, abs=2e-3)


@pytest.mark.parametrize(
    ("value", "words"), [(0.3, "all images have the same embedding"), (np.nan, "some are not finite")]
)
def test_embeddings_that_have_collapsed_are_refused_by_name(value: float, words: str) -> None:
    with pytest.raises(TrainingDiverged, match=rf"joint embeddings: {words}; .*lower optim\.learning_rate"):
        check_embeddings(np.full((12, 20), value, np.float32), "joint")
    check_embeddings(np.full((12, 20), 0.3, np.float32) + np.eye(12, 20, dtype=np.float32) * 1e-2, "joint")


def test_a_constant_feature_is_ignored() -> None:
    train, val = draw(60, 8, seed=0), draw(40, 8, seed=1)
    padded = [Examples(np.pad(e, ((0, 0), (0, 1)), constant_values=0.3), c) for e, c in (train, val)]
    plain = fit_path(train, val, class_names=CLASSES, l2=1.0).val_scores
    assert fit_path(*padded, class_names=CLASSES, l2=1.0).val_scores == pytest.approx(plain, abs=1e-5)


def test_permuted_labels_score_at_chance() -> None:
    rng = np.random.default_rng(0)
    train, val, test = (draw(n, 40, seed=s, effect=3) for s, n in enumerate((200, 80, 300)))
    shuffled = [Examples(e, rng.permutation(c)) for e, c in (train, val)]
    bootstrap = Bootstrap(test.classes, np.arange(300).astype(str))
    honest = fit_path(train, val, class_names=CLASSES).scores(test.embeddings)
    assert bootstrap.intervals(honest)["macro_auroc"].low > 0.9
    chance = fit_path(*shuffled, class_names=CLASSES).scores(test.embeddings)
    interval = bootstrap.intervals(chance)["macro_auroc"]
    assert interval.low < 0.5 < interval.high


def test_fits_that_do_not_converge_are_counted_and_said(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr("trainables.scoring.logistic.MAX_ITERATIONS", 1)
    dataset, table = embedded()
    with caplog.at_level(logging.WARNING, logger="trainables.scoring.linear_probe"):
        path = probe_embeddings(table, dataset, ProbeConfig(features=("joint",)))["joint"]
    assert 0 < path.num_unconverged <= len(path.fits)
    assert f"{path.num_unconverged} of {len(path.fits)} fits" in caplog.text
    write_probe_path(tmp_path / "path.parquet", {"joint": path})
    written = pq.read_table(tmp_path / "path.parquet")["is_converged"].to_pylist()
    assert written.count(False) == path.num_unconverged


def test_splits_that_cannot_be_probed_are_refused() -> None:
    train, val = draw(60, 5, seed=0), draw(30, 5, seed=1)
    no_c = Examples(train.embeddings[train.classes < 2], train.classes[train.classes < 2])
    with pytest.raises(DataError, match="'train' has 0 images of class 'C'"):
        fit_path(no_c, val, class_names=CLASSES)
    only_a = Examples(val.embeddings[val.classes == 0], val.classes[val.classes == 0])
    with pytest.raises(DataError, match="macro_auroc is undefined on split 'val'"):
        fit_path(train, only_a, class_names=CLASSES)
    with pytest.raises(DataError, match="'val' has no images"):
        fit_path(train, Examples(val.embeddings[:0], val.classes[:0]), class_names=CLASSES)


def embedded() -> tuple[Dataset, EmbeddingTable]:
    """90 images whose test labels are withheld, and their embeddings in another order."""
    examples = draw(90, 6, seed=0)
    splits = ["train"] * 50 + ["val"] * 20 + ["test"] * 20
    records = tuple(
        ImageRecord(
            image_id=f"image {i:02}",
            patient_id=f"patient {i // 2}",
            split=split,  # pyright: ignore[reportArgumentType]
            labels={} if split == "test" else {name: int(k == c) for c, name in enumerate(CLASSES)},
        )
        for i, (split, k) in enumerate(zip(splits, examples.classes, strict=True))
    )
    dataset = Dataset(
        "toy", CLASSES, records, "content", "fingerprint", lambda record: np.zeros((2, 2), np.uint8)
    )
    order = np.random.default_rng(1).permutation(90)
    ids = np.array([record.image_id for record in records])[order]
    table = EmbeddingTable(ids, pooled=examples.embeddings[order], joint=examples.embeddings[order, :3])
    return dataset, table


def test_probing_needs_no_test_label_and_scores_test() -> None:
    dataset, table = embedded()
    paths = probe_embeddings(table, dataset, ProbeConfig())
    assert list(paths) == ["joint", "pooled"]
    predictions = probe_predictions(paths, table, dataset)
    assert list(predictions) == [(s, f"probe_{f}") for f in ("joint", "pooled") for s in ("val", "test")]
    test = predictions["test", "probe_pooled"]
    assert test.image_ids.tolist() == [f"image {i}" for i in range(70, 90)]
    rows = table.rows_of(test.image_ids)
    assert (test.scores == paths["pooled"].scores(table.pooled[rows])).all()


def test_path_file_has_a_row_per_fit_and_one_chosen(tmp_path: Path) -> None:
    dataset, table = embedded()
    paths = probe_embeddings(table, dataset, ProbeConfig())
    write_probe_path(tmp_path / "results" / "probe_path.parquet", paths)
    rows = pq.read_table(tmp_path / "results" / "probe_path.parquet").to_pylist()
    for features, path in paths.items():
        own = [row for row in rows if row["features"] == features]
        assert [row["fit_index"] for row in own] == list(range(len(path.fits)))
        (chosen,) = [row for row in own if row["is_chosen"]]
        assert chosen["l2"] == path.l2
        assert chosen["macro_auroc"] == max(row["macro_auroc"] for row in own)
        assert {"accuracy", "macro_f1", "macro_auroc", "nll"} < set(chosen)
