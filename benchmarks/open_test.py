"""How long the test labels of a whole table take to judge: the study's, `clip_covid`, on made-up predictions.

    python benchmarks/open_test.py
    python benchmarks/open_test.py --frozen 1 --adapted 1 --shots 1 --draws 1

Arms are frozen (one trial), adapted or classifiers (three seeds). All but classifiers have two probes, four
ways of asking in words, controls, and draws of few-shot probes. Every image is its own patient, as in
COVID-QU-Ex. One file of predictions serves all trials of a kind and seed; it is read again for each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from measure import peak_mib, provenance, write

from trainables.config import Split
from trainables.scoring.judge_arms import evaluate_arms
from trainables.scoring.metric_names import CONTROLS, PROBES, ZERO_SHOT, draw_name, few_shot_name
from trainables.scoring.predictions import Scores, write_predictions
from trainables.scoring.test_predictions import Cases, ScoredTrial

CLASSES, VAL_IMAGES = 3, 5417
SYSTEMS = (*PROBES, *(system for system in ZERO_SHOT if system != "zero_shot_training"))
SHOTS = (1, 4, 16)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, number in (("frozen", 24), ("adapted", 33), ("classifiers", 4), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=number)
    for name, number in (("shots", len(SHOTS)), ("draws", 10), ("images", 6788)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    origin = provenance(__file__, sys.argv[1:], ("numpy", "pyarrow", "scipy"))
    write(origin | measure(arguments), arguments.output)


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Returns the seconds and the memory that judging takes."""
    rng = np.random.default_rng(0)
    classes = rng.integers(CLASSES, size=arguments.images)
    image_ids = [f"Test/COVID-19/images/radiograph_{i:05d}.png" for i in range(arguments.images)]
    cases = Cases(
        dict(zip(image_ids, classes.tolist(), strict=True)), dict(zip(image_ids, image_ids, strict=True))
    )
    with tempfile.TemporaryDirectory() as folder:
        trials = write_table(Path(folder), arguments, cases, rng)
        rows: list[int] = []
        began, busy = time.perf_counter(), time.process_time()

        def judge() -> None:
            rows.append(len(evaluate_arms(trials, cases, class_pairs={"b_vs_c": (1, 2)}).paired))

        memory = peak_mib(judge)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - busy
    return {
        "trials": len(trials),
        "rows_of_differences": rows[0],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "peak_mib": round(memory),
    }


def write_table(
    folder: Path, arguments: argparse.Namespace, cases: Cases, rng: np.random.Generator
) -> list[ScoredTrial]:
    """Writes a file of predictions a kind and seed, and returns the trials that they stand for."""
    drawn = [
        draw_name(few_shot_name(num_shots, features), draw)
        for num_shots in SHOTS[: arguments.shots]
        for draw in range(arguments.draws)
        for features in ("joint", "pooled")
    ]
    kinds = {
        "frozen": (arguments.frozen, 1, [*SYSTEMS, *CONTROLS, *drawn]),
        "adapted": (arguments.adapted, arguments.seeds, [*SYSTEMS, *CONTROLS, *drawn]),
        "classifier": (arguments.classifiers, arguments.seeds, ["baseline"]),
    }
    trials: list[ScoredTrial] = []
    for kind, (num_arms, num_seeds, systems) in kinds.items():
        for seed in range(num_seeds if num_arms else 0):
            file = folder / f"{kind}-{seed}.parquet"
            write_predictions(
                file, {key: scores for name in systems for key, scores in say(name, cases, rng)}
            )
            for arm in range(num_arms):
                key, encoder = f"{kind}-{arm}", str(arm % max(arguments.frozen, 1))
                is_frozen = kind == "frozen"
                trials.append(ScoredTrial(f"{key}-{seed}", key, seed, None, file, is_frozen, encoder))
    return trials


def say(name: str, cases: Cases, rng: np.random.Generator) -> Iterator[tuple[tuple[Split, str], Scores]]:
    """Yields made-up scores of one system on val and test; those on few shots are the worse."""
    skill = 1.0 if name.startswith("few_shot") else 2.0
    images: dict[Split, tuple[list[str], np.ndarray]] = {
        "val": ([f"Val/{i:05d}.png" for i in range(VAL_IMAGES)], rng.integers(CLASSES, size=VAL_IMAGES)),
        "test": (list(cases.targets), np.array(list(cases.targets.values()))),
    }
    for split, (image_ids, classes) in images.items():
        odds = np.exp(skill * np.eye(CLASSES)[classes] + rng.normal(size=(len(classes), CLASSES)))
        yield (split, name), Scores(np.array(image_ids), odds / odds.sum(1, keepdims=True))


if __name__ == "__main__":
    main()
