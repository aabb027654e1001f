"""The probe path of 14 findings: all findings at once, against scikit-learn finding by finding.

    python benchmarks/finding_probe.py --images 112120 --features 768 --contenders ours newton-cg:1e-4

The features have a falling spectrum, like those of an encoder. The prevalences are those of NIH ChestX-ray14,
and 5 % of the labels are unknown. `fit_finding_path` chooses among 15 strengths. Then each contender fits all
of them on train, in the same order and with warm starts. A contender of scikit-learn is SOLVER:TOLERANCE.
Processor seconds are those of all threads; on a shared machine they say more than wall seconds. `surplus` is
the distance of an objective to the lowest of all contenders, relative to it: the worst of all findings.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from measure import provenance, write

from trainables.scoring.finding_logistic import FindingSolver
from trainables.scoring.finding_probe import fit_finding_path
from trainables.scoring.linear_probe import Examples
from trainables.scoring.logistic import FeatureSpace

SEED = 0
PREVALENCES = (
    0.177,
    0.119,
    0.103,
    0.056,
    0.051,
    0.047,
    0.042,
    0.030,
    0.025,
    0.022,
    0.021,
    0.015,
    0.013,
    0.002,
)
"""Shares of images with each finding of NIH ChestX-ray14, from Infiltration to Hernia."""
UNKNOWN = 0.05
Fits = dict[float, tuple[np.ndarray, np.ndarray]]
"""λ → weights [D, K] and bias [K]."""


def draw(num_images: int, num_features: int) -> Examples:
    rng = np.random.default_rng(SEED)
    spectrum = np.arange(1, num_features + 1) ** -0.5
    mixing = np.linalg.qr(rng.normal(size=(num_features, num_features)))[0]
    hidden = rng.normal(size=(num_images, num_features)).astype(np.float32) * spectrum.astype(np.float32)
    signal = hidden @ (rng.normal(size=(num_features, len(PREVALENCES))) * spectrum[:, None] ** 0.5)
    logits = 1.5 * signal / signal.std(axis=0) + rng.logistic(size=signal.shape)
    edges = [np.quantile(logits[:, k], 1 - share) for k, share in enumerate(PREVALENCES)]
    labels = (logits > edges).astype(np.int8)
    labels[rng.random(labels.shape) < UNKNOWN] = -1
    return Examples(hidden @ mixing.astype(np.float32), labels)


def ours(features: np.ndarray, labels: np.ndarray, strengths: list[float]) -> Fits:
    solver = FindingSolver(features, labels)
    return {l2: solver.fit(np.full(labels.shape[1], l2))[:2] for l2 in strengths}


def theirs(
    features: np.ndarray, labels: np.ndarray, strengths: list[float], solver: str, tolerance: float
) -> Fits:
    from sklearn.linear_model import LogisticRegression

    weights = {l2: np.zeros((features.shape[1], labels.shape[1])) for l2 in strengths}
    bias = {l2: np.zeros(labels.shape[1]) for l2 in strengths}
    for k, column in enumerate(labels.T):
        known = column >= 0
        of_known, is_positive = features[known], column[known] == 1
        model = LogisticRegression(solver=solver, tol=tolerance, max_iter=1000, warm_start=True)
        for l2 in strengths:
            model.C = 1 / l2
            model.fit(of_known, is_positive)
            weights[l2][:, k], bias[l2][k] = model.coef_[0], np.asarray(model.intercept_)[0]
    return {l2: (weights[l2], bias[l2]) for l2 in strengths}


def objectives(features: np.ndarray, labels: np.ndarray, fits: Fits) -> np.ndarray:
    """Returns the objective of each strength and finding in float64, [S, K]."""
    rows: list[np.ndarray] = []
    for l2, (weights, bias) in fits.items():
        logits = features.astype(np.float64) @ weights + bias
        losses = np.where(labels < 0, 0, np.logaddexp(0, np.where(labels == 1, -logits, logits)))
        rows.append(losses.sum(0) + l2 / 2 * (np.asarray(weights, np.float64) ** 2).sum(0))
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000, help="images of train; val has a fifth more")
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--findings", type=int, default=len(PREVALENCES), help="the rarest ones, at most 14")
    parser.add_argument("--contenders", nargs="+", default=["ours", "newton-cg:1e-4", "lbfgs:1e-4"])
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    embeddings, labels = draw(arguments.images + arguments.images // 5, arguments.features)
    labels = labels[:, -arguments.findings :]
    parts = np.split(np.arange(len(labels)), [arguments.images])
    train, val = (Examples(embeddings[rows], labels[rows]) for rows in parts)
    names = [f"finding {k}" for k in range(labels.shape[1])]
    began = time.perf_counter()
    path = fit_finding_path(train, val, class_names=names, macro=range(len(names)))
    whole = time.perf_counter() - began
    print(f"the whole path with its choice and refit: {whole:.1f} s", flush=True)
    strengths = [fit.l2 for fit in path.fits]
    features = FeatureSpace.spanned_by(train.embeddings, val.embeddings).train
    seconds: dict[str, tuple[float, float]] = {}
    values: dict[str, np.ndarray] = {}
    for name in arguments.contenders:
        solver, _, tolerance = name.partition(":")
        began, used = time.perf_counter(), time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fits that stop before the tolerance: `surplus` shows them
            if name == "ours":
                fits = ours(features, train.classes, strengths)
            else:
                fits = theirs(features, train.classes, strengths, solver, float(tolerance))
        seconds[name] = time.perf_counter() - began, time.process_time() - used
        values[name] = objectives(features, train.classes, fits)
        print(f"{name:>24} {seconds[name][0]:8.1f} s wall {seconds[name][1]:8.1f} s processor", flush=True)
    lowest = np.min(list(values.values()), axis=0)
    rows = [
        {
            "contender": name,
            "wall_seconds": round(seconds[name][0], 2),
            "processor_seconds": round(seconds[name][1], 2),
            "surplus": float((value / lowest - 1).max()),
            "surplus_of_strength": {
                f"{l2:.3g}": float(f"{surplus:.3g}")
                for l2, surplus in sorted(zip(strengths, (value / lowest - 1).max(1).tolist(), strict=True))
            },
        }
        for name, value in values.items()
    ]
    for row in rows:
        print(f"{row['contender']:>24} surplus {row['surplus']:.2g}")
    result = provenance(__file__, sys.argv[1:], ["numpy", "scipy", "scikit-learn"])
    shape = {
        "images": arguments.images,
        "features": arguments.features,
        "findings": labels.shape[1],
        "path_seconds": round(whole, 2),
    }
    write(result | shape | {"seed": SEED, "rows": rows}, arguments.output)


if __name__ == "__main__":
    main()
