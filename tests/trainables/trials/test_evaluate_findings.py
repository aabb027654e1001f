"""Tests of `evaluate_arms` with several findings per image. For classes see `test_evaluate`."""

from pathlib import Path

import numpy as np
import pytest
from plain_findings import FINDINGS, tied_findings

from trainables.scoring.bootstrap import Bootstrap, average, intervals, paired_draws
from trainables.scoring.comparisons import System
from trainables.scoring.finding_table import finding_rows
from trainables.scoring.judge_arms import EvaluationResult, evaluate_arms
from trainables.scoring.predictions import Scores, write_predictions
from trainables.scoring.test_predictions import Cases, ScoredTrial

pytestmark = pytest.mark.kernels

SCORES, LABELS, PATIENTS = tied_findings()
IMAGE_IDS = np.array([f"image {i:03}" for i in range(len(LABELS))])
CASES = Cases(
    dict(zip(IMAGE_IDS.tolist(), LABELS, strict=True)),
    dict(zip(IMAGE_IDS.tolist(), PATIENTS.tolist(), strict=True)),
    FINDINGS,
)
BOOTSTRAP = Bootstrap(LABELS, PATIENTS, num_draws=100)


def blurred(noise: float, *, seed: int = 0) -> np.ndarray:
    """Returns worse scores [N, 4] the larger `noise`."""
    rng = np.random.default_rng(seed)
    return np.clip(SCORES + rng.normal(scale=noise, size=SCORES.shape), 0, 1)


def write_trial(
    folder: Path, arm: str, systems: dict[str, np.ndarray], *, seed: int = 0, fold: int | None = None
) -> ScoredTrial:
    rows = np.arange(len(LABELS)) if fold is None else np.flatnonzero(np.arange(len(LABELS)) % 2 == fold)
    path = folder / f"{arm}-{seed}-{fold}.parquet"
    predictions = {("test", name): Scores(IMAGE_IDS[rows], scores[rows]) for name, scores in systems.items()}
    write_predictions(path, predictions, "multilabel")
    return ScoredTrial(path.stem, arm, seed, fold, path, is_frozen=arm.startswith("frozen"))


def judge(trials: list[ScoredTrial]) -> EvaluationResult:
    return evaluate_arms(trials, CASES, num_draws=100, first=System("lora", "probe_joint"))


def test_folds_and_seeds_of_findings_are_joined_averaged_and_compared(tmp_path: Path) -> None:
    by_seed = [blurred(0.1, seed=seed) for seed in (1, 2)]
    trials = [
        write_trial(tmp_path, "lora", {"probe_joint": scores}, seed=seed, fold=fold)
        for seed, scores in enumerate(by_seed)
        for fold in (0, 1)
    ]
    worse = blurred(0.5)
    trials.append(write_trial(tmp_path, "frozen", {"probe_joint": worse, "control_border": blurred(0.8)}))
    result = judge(trials)
    draws = average([BOOTSTRAP.metrics(scores) for scores in by_seed])
    for name, (value, low, high) in intervals(draws).items():
        keys = [f"test/probe_joint/{name}{suffix}" for suffix in ("", "_low", "_high")]
        assert [result.pooled["lora"][key] for key in keys] == pytest.approx([value, low, high]), name
    expected = intervals(paired_draws(draws, BOOTSTRAP.metrics(worse)))
    rows = {row["metric"]: row for row in result.paired if row["arm_b"] == "frozen"}
    assert set(rows) == {"macro_auroc", "macro_ap", "nll", "error_cut_macro_auroc"}
    for name, row in rows.items():
        assert [row["difference"], row["low"], row["high"]] == pytest.approx(list(expected[name])), name
    assert any(row["arm_b"] is None for row in result.paired), "compared with the control"


def test_each_arm_and_control_has_a_row_for_each_finding(tmp_path: Path) -> None:
    alone, thumbnail = blurred(0.1), blurred(0.8)
    drawn = {"few_shot_1_joint#0": alone, "few_shot_1_joint#1": thumbnail}
    result = judge(
        [
            write_trial(tmp_path, "lora", {"probe_joint": alone, "control_border": thumbnail} | drawn),
            *(
                write_trial(
                    tmp_path, "frozen", {"probe_joint": thumbnail, "control_border": thumbnail}, fold=f
                )
                for f in (0, 1)
            ),
        ]
    )
    named = [(row["arm"], row["system"]) for row in result.findings]
    systems = [("lora", "probe_joint"), (None, "control_border"), ("frozen", "probe_joint")]
    assert sorted(named, key=str) == sorted([system for system in systems for _ in FINDINGS], key=str)
    for (arm, system), scores in zip(systems, (alone, thumbnail, thumbnail), strict=True):
        expected = finding_rows(
            LABELS, FINDINGS, BOOTSTRAP.draws(scores).by_finding, {"arm": arm, "system": system}
        )
        found = [row for row in result.findings if (row["arm"], row["system"]) == (arm, system)]
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other)
    assert result.arms["lora-0-None"]["test/few_shot_1_joint/macro_ap"] > 0


def test_the_reference_has_the_highest_macro_auroc(tmp_path: Path) -> None:
    systems = {"probe_joint": blurred(0.5), "probe_pooled": blurred(0.2), "zero_shot_pair": SCORES}
    result = judge([write_trial(tmp_path, "frozen", systems)])
    assert result.reference == {"arm": "frozen", "system": "probe_pooled"}


def test_a_finding_without_positives_on_test_is_noted_and_refuses_nothing(tmp_path: Path) -> None:
    labels = LABELS.copy()
    labels[:, 2] = 0
    cases = Cases(dict(zip(IMAGE_IDS.tolist(), labels, strict=True)), CASES.patients, FINDINGS)
    result = evaluate_arms([write_trial(tmp_path, "lora", {"probe_joint": SCORES})], cases, num_draws=20)
    (note,) = result.notes
    assert "0 positive images, 150 negative images of 'Hernia'" in note
    (row,) = (row for row in result.findings if row["finding"] == "Hernia")
    assert row["num_negative"] == 150
    assert row["auroc"] is row["auroc_low"] is row["brier"] is None
    kept = [row["auroc"] for row in result.findings[:2]]
    assert result.arms["lora-0-None"]["test/probe_joint/macro_auroc"] == pytest.approx(np.mean(kept))


def test_scores_of_findings_need_not_sum_to_one_but_are_probabilities(tmp_path: Path) -> None:
    spoiled = SCORES.copy()
    spoiled[3, 1] = 1.01
    with pytest.raises(ValueError, match="test/probe_joint: scores are not probabilities"):
        write_trial(tmp_path, "lora", {"probe_joint": spoiled})
