import json
from pathlib import Path

import numpy as np
import pytest
from plain_metrics import difference, plain_metrics, resampled

from trainables.config import DataConfig, PhantomConfig, TrialConfig
from trainables.data.datasets import load_dataset
from trainables.errors import DataError
from trainables.scoring.bootstrap import Bootstrap, average
from trainables.scoring.comparisons import System
from trainables.scoring.judge_arms import EvaluationResult, evaluate_arms
from trainables.scoring.metrics import point_metrics
from trainables.scoring.predictions import Scores, write_predictions
from trainables.scoring.test_predictions import Cases, ScoredTrial
from trainables.trials import evaluate as module
from trainables.trials.evaluate import evaluate

pytestmark = pytest.mark.kernels

NUM_CASES, NUM_FOLDS = 120, 3
IMAGE_IDS = np.array([f"image {i:03}" for i in range(NUM_CASES)])
CLASSES = np.random.default_rng(0).integers(3, size=NUM_CASES)
PATIENTS = np.array([f"patient {i // 2}" for i in range(NUM_CASES)])
FOLD_OF = np.arange(NUM_CASES) // 2 % NUM_FOLDS
CASES = Cases(
    dict(zip(IMAGE_IDS.tolist(), CLASSES.tolist(), strict=True)),
    dict(zip(IMAGE_IDS.tolist(), PATIENTS.tolist(), strict=True)),
)
QUICK = {"num_draws": 200}
BOOTSTRAP = Bootstrap(CLASSES, PATIENTS, num_draws=200)


def scores_of(skill: float, *, seed: int) -> np.ndarray:
    """Probabilities [N, K] of a system that is right more often the larger `skill`."""
    noise = np.random.default_rng([seed, int(skill * 100)]).normal(size=(NUM_CASES, 3))
    logits = np.exp(skill * np.eye(3)[CLASSES] + noise)
    return logits / logits.sum(1, keepdims=True)


def write_trial(
    folder: Path,
    arm: str,
    systems: dict[str, np.ndarray],
    *,
    seed: int = 0,
    fold: int | None = None,
    encoder: str = "",
) -> ScoredTrial:
    """Writes one trial's test predictions, of its fold if it has one, in an order of its own."""
    key = f"{arm}-{seed}-{fold}"
    rows = np.arange(NUM_CASES) if fold is None else np.flatnonzero(fold == FOLD_OF)
    rows = np.random.default_rng(seed).permutation(rows)
    predictions = {("test", name): Scores(IMAGE_IDS[rows], scores[rows]) for name, scores in systems.items()}
    predictions["val", "probe_joint"] = Scores(np.array(["a val image"]), np.array([[1.0, 0, 0]]))
    write_predictions(folder / f"{key}.parquet", predictions)
    is_frozen = arm.startswith("frozen")
    return ScoredTrial(key, arm, seed, fold, folder / f"{key}.parquet", is_frozen=is_frozen, encoder=encoder)


def find(result: EvaluationResult, metric: str, **names: str | None) -> dict:
    """Returns the first row of `paired` with these names."""
    return next(row for row in result.paired if row["metric"] == metric and names.items() <= row.items())


def test_one_trial_gets_the_metrics_of_its_test_images(tmp_path: Path) -> None:
    scores = scores_of(1.5, seed=0)
    result = evaluate_arms([write_trial(tmp_path, "lora", {"probe_joint": scores})], CASES, **QUICK)
    expected = BOOTSTRAP.intervals(scores)
    values = result.arms["lora-0-None"]
    for name, interval in expected.items():
        keys = [f"test/probe_joint/{name}{suffix}" for suffix in ("", "_low", "_high")]
        assert [values[key] for key in keys] == pytest.approx(list(interval))
    assert result.pooled == {}


def test_folds_are_joined_and_seeds_averaged(tmp_path: Path) -> None:
    by_seed = [scores_of(1.5, seed=seed) for seed in (1, 2)]
    trials = [
        write_trial(tmp_path, "lora", {"probe_joint": scores}, seed=seed, fold=fold)
        for seed, scores in enumerate(by_seed)
        for fold in range(NUM_FOLDS)
    ]
    result = evaluate_arms(trials, CASES, **QUICK)
    pooled = result.pooled["lora"]
    points = [point_metrics(scores, CLASSES) for scores in by_seed]
    for name in ("accuracy", "macro_auroc", "nll"):
        assert pooled[f"test/probe_joint/{name}"] == pytest.approx(np.mean([p[name] for p in points]))
    draws = average([BOOTSTRAP.metrics(scores) for scores in by_seed])["accuracy"]
    assert pooled["test/probe_joint/accuracy_low"] == pytest.approx(np.percentile(draws[1:], 2.5))
    assert set(result.arms) == {trial.trial_key for trial in trials}
    one_fold = FOLD_OF == 1
    expected = point_metrics(by_seed[0][one_fold], CLASSES[one_fold])["accuracy"]
    assert result.arms["lora-0-1"]["test/probe_joint/accuracy"] == pytest.approx(expected)


def test_values_intervals_and_differences_equal_a_plain_bootstrap(tmp_path: Path) -> None:
    def runs(skill: float, numbers: range) -> list[np.ndarray]:
        return [scores_of(skill, seed=number) for number in numbers]

    frozen, probes, shots = runs(1.0, range(1)), runs(2.0, range(1, 3)), runs(0.5, range(3, 7))
    trials = [write_trial(tmp_path, "frozen", {"probe_joint": frozen[0]})]
    for seed in range(2):
        few_shot = {f"few_shot_1_joint#{draw}": shots[2 * seed + draw] for draw in range(2)}
        trials.append(write_trial(tmp_path, "lora", {"probe_joint": probes[seed]} | few_shot, seed=seed))
    result = evaluate_arms(trials, CASES, num_draws=40, seed=3)
    metrics = ("accuracy", "macro_auroc", "nll")
    drawn = list(resampled(PATIENTS, seed=3, num_draws=40))

    def plain(runs: list[np.ndarray]) -> dict[str, np.ndarray]:
        values = [[plain_metrics(one[rows], CLASSES[rows]) for rows in drawn] for one in runs]
        return {name: np.mean([[v[name] for v in of_run] for of_run in values], axis=0) for name in metrics}

    def interval(values: np.ndarray) -> list[float]:
        return [values[0], *np.percentile(values[1:], (2.5, 97.5))]

    adapted = plain(probes)
    for name, expected in {"probe_joint": adapted, "few_shot_1_joint": plain(shots)}.items():
        for metric in metrics:
            keys = [f"test/{name}/{metric}{suffix}" for suffix in ("", "_low", "_high")]
            found = [result.pooled["lora"][key] for key in keys]
            assert found == pytest.approx(interval(expected[metric]), rel=1e-12), (name, metric)
    before = plain(frozen)
    for metric in metrics:
        row = find(result, metric, arm_a="lora", arm_b="frozen")
        expected = interval(adapted[metric] - before[metric])
        assert [row["difference"], row["low"], row["high"]] == pytest.approx(expected, rel=1e-11, abs=1e-14)


def test_reference_is_the_stronger_frozen_probe_and_comes_first(tmp_path: Path) -> None:
    weak, strong, adapted = (scores_of(skill, seed=0) for skill in (0.5, 1.5, 3.0))
    trials = [
        write_trial(tmp_path, "lora", {"probe_joint": adapted}),
        write_trial(tmp_path, "frozen", {"probe_pooled": weak, "probe_joint": strong}),
    ]
    result = evaluate_arms(trials, CASES, **QUICK)
    assert result.reference == {"arm": "frozen", "system": "probe_joint"}
    row = find(result, "accuracy", arm_a="lora", system_a="probe_joint")
    assert (row["arm_b"], row["system_b"]) == ("frozen", "probe_joint")
    expected = difference(adapted, strong, BOOTSTRAP)
    assert [row["difference"], row["low"], row["high"]] == pytest.approx(list(expected["accuracy"]))
    cut = find(result, "error_cut", arm_a="lora", system_b="probe_joint")["difference"]
    errors = [(scores.argmax(1) != CLASSES).mean() for scores in (adapted, strong)]
    assert cut == pytest.approx(1 - errors[0] / errors[1])


def test_zero_shot_is_compared_with_its_frozen_self_and_its_own_probe(tmp_path: Path) -> None:
    systems = {"zero_shot_unseen": scores_of(1.0, seed=0), "probe_joint": scores_of(1.5, seed=0)}
    better = {name: scores_of(3.0, seed=5) for name in systems}
    trials = [write_trial(tmp_path, "frozen", systems), write_trial(tmp_path, "lora", better)]
    result = evaluate_arms(trials, CASES, **QUICK)
    find(
        result,
        "accuracy",
        arm_a="lora",
        system_a="zero_shot_unseen",
        arm_b="frozen",
        system_b="zero_shot_unseen",
    )
    find(result, "accuracy", arm_a="lora", system_a="zero_shot_unseen", arm_b="lora", system_b="probe_joint")


def test_an_adapted_encoder_is_compared_with_its_own_frozen_self(tmp_path: Path) -> None:
    names = ("zero_shot_unseen", "probe_joint", "probe_pooled")
    arms = [("frozen", "clip"), *((f"frozen {i}", f"other {i}") for i in range(4)), ("lora", "clip")]
    skills = {
        arm: (0.2 if encoder == "clip" else 1.0) for arm, encoder in arms
    }  # 8 stronger probes of others
    trials = [
        write_trial(tmp_path, arm, {name: scores_of(skills[arm], seed=i) for name in names}, encoder=encoder)
        for i, (arm, encoder) in enumerate(arms)
    ]
    result = evaluate_arms(trials, CASES, **QUICK)
    for name in names:
        find(result, "accuracy", arm_a="lora", system_a=name, arm_b="frozen", system_b=name)
    others = {row["arm_b"] for row in result.paired if row["system_a"] == row["system_b"] == names[0]}
    assert others == {"frozen"}, "zero-shot of other encoders is nobody's former self"


def test_every_system_of_an_arm_is_held_against_what_stood_first_on_val(tmp_path: Path) -> None:
    best, other = scores_of(3.0, seed=0), scores_of(1.0, seed=1)
    trials = [
        write_trial(tmp_path, "frozen", {"probe_joint": other, "control_prior": other}),
        write_trial(tmp_path, "lora", {"probe_joint": best, "few_shot_1_joint#0": other}),
        write_trial(tmp_path, "resnet", {"baseline": other}),
    ]
    first = System("lora", "probe_joint")
    result = evaluate_arms(trials, CASES, first=first, **QUICK)
    against = [row for row in result.paired if (row["arm_b"], row["system_b"]) == first]
    assert {(row["arm_a"], row["system_a"]) for row in against} >= {
        ("frozen", "probe_joint"),
        ("resnet", "baseline"),
    }
    assert all(row["arm_a"] is not None and "few_shot" not in row["system_a"] for row in against)
    expected = difference(other, best, BOOTSTRAP)["accuracy"]
    row = find(result, "accuracy", arm_a="resnet", arm_b="lora")
    assert [row["difference"], row["low"], row["high"]] == pytest.approx(list(expected))
    rows = [
        json.dumps([row[key] for key in row if key.startswith(("arm", "sys", "met"))])
        for row in result.paired
    ]
    assert len(set(rows)) == len(rows)
    few = System("lora", "few_shot_1_joint")
    result = evaluate_arms(trials, CASES, first=few, **QUICK)
    find(result, "accuracy", arm_a="resnet", arm_b="lora", system_b="few_shot_1_joint")
    assert all(row["system_a"] != few.name for row in result.paired)


def test_controls_stand_once_and_beside_every_system(tmp_path: Path) -> None:
    thumbnail = scores_of(1.0, seed=0)
    frozen = {"probe_joint": scores_of(1.5, seed=0), "control_thumbnail": thumbnail}
    adapted = {"probe_joint": scores_of(3.0, seed=0), "control_thumbnail": thumbnail}
    trials = [write_trial(tmp_path, "lora", adapted), write_trial(tmp_path, "frozen", frozen)]
    result = evaluate_arms(trials, CASES, **QUICK)
    expected = point_metrics(thumbnail, CLASSES)["accuracy"]
    assert result.controls["test/control_thumbnail/accuracy"] == pytest.approx(expected)
    assert not any("control" in key for arm in result.arms.values() for key in arm)
    for arm in ("lora", "frozen"):
        find(result, "accuracy", arm_a=arm, arm_b=None, system_b="control_thumbnail")


def test_arms_are_compared_with_each_other(tmp_path: Path) -> None:
    clip, multi_positive = scores_of(1.5, seed=1), scores_of(1.6, seed=2)
    trials = [
        write_trial(tmp_path, "clip", {"probe_joint": clip}),
        write_trial(tmp_path, "multi_positive", {"probe_joint": multi_positive}),
    ]
    result = evaluate_arms(trials, CASES, **QUICK)
    row = find(result, "macro_auroc", arm_a="clip", arm_b="multi_positive")
    expected = difference(clip, multi_positive, BOOTSTRAP)["macro_auroc"]
    assert row["difference"] == pytest.approx(expected.value)
    assert result.reference is None


def test_a_seed_that_lost_a_fold_does_not_count(tmp_path: Path) -> None:
    by_seed = [scores_of(1.5, seed=seed) for seed in (1, 2)]
    trials = [
        write_trial(tmp_path, "lora", {"probe_joint": by_seed[seed]}, seed=seed, fold=fold)
        for seed, fold in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)]
    ]
    result = evaluate_arms(trials, CASES, **QUICK)
    assert "1 of 2 seeds do not score all 120 test images" in result.notes[0]
    expected = point_metrics(by_seed[0], CLASSES)["accuracy"]
    assert result.pooled["lora"]["test/probe_joint/accuracy"] == pytest.approx(expected)
    alone = evaluate_arms(trials[3:], CASES, **QUICK)
    assert alone.pooled == {}
    assert set(alone.arms) == {"lora-1-0", "lora-1-2"}


def test_folds_that_overlap_are_refused(tmp_path: Path) -> None:
    whole = write_trial(tmp_path, "lora", {"probe_joint": scores_of(1, seed=0)})
    part = write_trial(tmp_path, "lora", {"probe_joint": scores_of(1, seed=0)}, fold=1)
    with pytest.raises(DataError, match="two folds of one seed"):
        evaluate_arms([whole, part], CASES, **QUICK)


def test_a_prediction_without_an_opened_label_is_refused(tmp_path: Path) -> None:
    trial = write_trial(tmp_path, "lora", {"probe_joint": scores_of(1, seed=0)})
    fewer = Cases({k: v for k, v in CASES.targets.items() if k != "image 007"}, CASES.patients)
    with pytest.raises(DataError, match=r"'image 007', whose test label was not opened \(1 such"):
        evaluate_arms([trial], fewer, **QUICK)


def test_a_class_without_test_images_is_said(tmp_path: Path) -> None:
    scores = np.concatenate([scores_of(1, seed=0) * 0.9, np.full((NUM_CASES, 1), 0.1)], axis=1)
    trial = write_trial(tmp_path, "lora", {"probe_joint": scores})
    cases = Cases(CASES.targets, CASES.patients, ("A", "B", "C", "D"))
    assert "0 images of class 'D'" in evaluate_arms([trial], cases, **QUICK).notes[0]


def test_result_is_plain_json_without_identifiers(tmp_path: Path) -> None:
    trials = [
        write_trial(
            tmp_path, "frozen", {"probe_joint": scores_of(1, seed=0), "control_prior": scores_of(0, seed=0)}
        ),
        write_trial(tmp_path, "lora", {"probe_joint": scores_of(2, seed=0)}),
    ]
    pairs = {"b_vs_c": (1, 2)}
    text = json.dumps(evaluate_arms(trials, CASES, class_pairs=pairs, **QUICK).to_dict(), allow_nan=False)
    assert "patient" not in text
    assert "image 0" not in text
    assert "test/probe_joint/auroc_b_vs_c_low" in text
    assert "error_cut_auroc_b_vs_c" in text


def test_the_trainable_opens_test_labels_once(context, monkeypatch) -> None:
    phantom = PhantomConfig(num_train=12, num_val=6, num_test=30)
    config = TrialConfig(data=DataConfig(dataset="phantom", phantom=phantom))
    opened: list[bool] = []

    def load(data: DataConfig, *, with_test_labels: bool = False):
        opened.append(with_test_labels)
        return load_dataset(data, with_test_labels=with_test_labels)

    monkeypatch.setattr(module, "load_dataset", load)
    with pytest.raises(DataError, match="no readable predictions"):
        evaluate(config, context)
    assert not opened, "labels stay closed while there is nothing to judge"
    dataset = load_dataset(config.data)
    ids = np.array([dataset.records[i].image_id for i in dataset.indices("test")])
    scores = Scores(ids, np.full((len(ids), 3), 1 / 3))
    write_predictions(context.workdir / "results" / "predictions.parquet", {("test", "probe_joint"): scores})
    first, again = evaluate(config, context), evaluate(config, context)
    assert first == again
    assert first["test/probe_joint/macro_auroc"] == 0.5
    assert opened == [True]
    other = Scores(ids, np.tile([0.5, 0.3, 0.2], (len(ids), 1)))
    write_predictions(context.workdir / "results" / "predictions.parquet", {("test", "probe_joint"): other})
    assert evaluate(config, context)["test/probe_joint/nll"] != first["test/probe_joint/nll"]
    record = json.loads((context.workdir / "results" / "evaluation.json").read_text())
    assert len(record["opened"]) == 2, "every opening stays on record"
