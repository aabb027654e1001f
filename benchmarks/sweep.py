"""What the orchestrator costs: beside the bare call, beside Ray Tune alone, and at a resume.

    python benchmarks/sweep.py overhead --seconds 30 --trials 4 --rounds 3
    python benchmarks/sweep.py no-op --trials 1000
    python benchmarks/sweep.py resume --trials 50

`overhead`: the same work as bare calls and as trials of a sweep, alternated, at one and at two at once.
`no-op`: trials that do nothing, ours against Ray Tune with a function that returns at once, in
fresh processes on the same Ray. `resume`: from the start of a process to the first trial that is handed
out, in a sweep that was stopped after all but one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sweep_trainables
import torch
from measure import in_fresh_process, kept_mib, provenance, ratio, write

from orchestrator.driver.observer import SweepObserver
from orchestrator.driver.sweep import SweepOptions, run_sweep
from orchestrator.search.space import SearchSpace
from orchestrator.search.space_file import read_space
from orchestrator.storage.paths import HOME_VARIABLE
from trainables.config import from_flat
from trainables.context import LocalContext

PHANTOM = {"data.phantom.num_train": 12, "data.phantom.num_val": 6, "data.phantom.num_test": 6}
FIXED = PHANTOM | {"encoder.image_size": 32, "adapt.method": "lora", "execution.num_threads": 1}
SEED = 0
TWO_MINUTES = 120.0
WARM_UP = 20


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.inside:  # a fresh process
        inside = {"ours": no_op_ours, "tune": no_op_tune, "resume": resumed}[options.inside]
        print(json.dumps(inside(options.trials)))
        return
    measured = {"overhead": overhead, "no-op": no_op, "resume": resume}[options.what](options)
    result = provenance(__file__, arguments or sys.argv[1:], ["ray", "torch"])
    write(result | {"seed": SEED} | measured, options.output)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options; every measurement has its own defaults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["overhead", "no-op", "resume"])
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30.0, help="of one bare call")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--inside", choices=["ours", "tune", "resume"], help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def overhead(options: argparse.Namespace) -> dict[str, Any]:
    """Returns seconds a trial beyond the bare call, and what share of a two-minute trial that is."""
    torch.set_num_threads(1)
    num_rounds = sweep_trainables.rounds_for(options.seconds)
    rows: list[dict[str, Any]] = []
    for at_once in (1, 2):
        bare, trials, starts = list[float](), list[float](), list[float]()
        for _ in range(options.rounds):
            bare.append(bare_calls(num_rounds, options.trials, at_once))
            watch = run_work(num_rounds, options.trials, at_once)
            trials.append(watch.ended - watch.placed)
            starts.append(watch.placed - watch.began)
        extra = [(ours - alone) / options.trials * at_once for ours, alone in zip(trials, bare, strict=True)]
        rows.append(
            {
                "trials_at_once": at_once,
                "bare_seconds": [round(value, 2) for value in bare],
                "sweep_over_bare": ratio([a / b for a, b in zip(trials, bare, strict=True)]),
                "extra_seconds_a_trial": round(statistics.median(extra), 3),
                "share_of_a_two_minute_trial": round(statistics.median(extra) / TWO_MINUTES, 4),
                "seconds_until_the_first_trial": round(statistics.median(starts), 2),
            }
        )
    return {"trials": options.trials, "seconds": options.seconds, "rows": rows}


def bare_calls(num_rounds: int, num_trials: int, at_once: int) -> float:
    """Returns the seconds of as many calls as a sweep has trials, in `at_once` processes."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        config = from_flat(FIXED | {"num_epochs": num_rounds})
        context = LocalContext(workdir=place, store=place)
        began = time.perf_counter()
        children = [os.fork() for _ in range(at_once - 1)] if at_once > 1 else []
        for _ in range(num_trials // at_once):
            sweep_trainables.work(config, context)
        if 0 in children:
            os._exit(0)
        for child in children:
            os.waitpid(child, 0)
        return time.perf_counter() - began


class Watch(SweepObserver):
    """Notes when a sweep began, when its first searched trial was placed, and when the last one ended."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.began = time.perf_counter()
        self.placed = self.ended = 0.0
        self.ends: list[float] = []
        self.stop_after = stop_after
        self.memory: list[int] = []

    def on_trial_placed(self, trial: Any) -> None:
        """The first one counts."""
        if not trial.is_baseline:
            self.placed = self.placed or time.perf_counter()

    def on_trial_finished(self, trial: Any) -> None:
        """The last one counts."""
        self.ended = time.perf_counter()
        self.ends.append(self.ended)
        if len(self.ends) % 100 == 0:
            self.memory.append(round(kept_mib()))
        if len(self.ends) == self.stop_after:
            from orchestrator.storage.driver_lock import STOP_SIGNAL

            os.kill(os.getpid(), STOP_SIGNAL)


def space_of(num_trials: int, at_once: int, num_rounds: int = 1) -> SearchSpace:
    """Returns a space of so many trials that differ in nothing that costs time."""
    return read_space(
        {
            "name": "benchmark",
            "fixed": FIXED | {"num_epochs": num_rounds},
            "parameters": {"optim.learning_rate": {"float": [1e-4, 1e-2], "log": True}},
            "search": {"num_trials": num_trials, "max_concurrent": at_once, "seed": SEED},
        }
    )


def run_work(num_rounds: int, num_trials: int, at_once: int) -> Watch:
    """Runs one sweep of `work` in an empty home."""
    return run(space_of(num_trials, at_once, num_rounds), "sweep_trainables:work")


def run(space: SearchSpace, trainable: str, watch: Watch | None = None, **options: Any) -> Watch:
    """Runs a sweep and returns its times."""
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    )
    watch = watch or Watch()
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault(HOME_VARIABLE, home)
        try:
            run_sweep(space, SweepOptions(trainable=trainable, opens_test=False, **options), watch)
        finally:
            if os.environ[HOME_VARIABLE] == home:
                del os.environ[HOME_VARIABLE]
    return watch


def no_op(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the pace of trials that do nothing, ours and Tune's, and what memory either driver keeps."""
    rounds = [
        {
            name: in_fresh_process(__file__, ["no-op", "--trials", str(options.trials), "--inside", name])
            for name in (("tune", "ours") if number % 2 else ("ours", "tune"))
        }
        for number in range(options.rounds)
    ]
    each = "seconds_a_trial"
    return {
        "trials": options.trials,
        "ours_over_tune": ratio([one["ours"][each] / one["tune"][each] for one in rounds]),
        "rounds": rounds,
    }


def no_op_ours(num_trials: int) -> dict[str, Any]:
    """Runs them through the orchestrator: ledger, searcher, keys and all."""
    watch = run(space_of(num_trials, at_once=2), "sweep_trainables:no_op")
    return {"seconds_a_trial": pace(watch.ends), "driver_mib_every_100_trials": watch.memory}


def no_op_tune(num_trials: int) -> dict[str, Any]:
    """Runs them through Ray Tune alone, set up as ours: same Ray, two at once, processes reused."""
    from orchestrator.cluster.fit import fit
    from orchestrator.cluster.local_ray import local_ray

    with tempfile.TemporaryDirectory() as folder:
        concurrency = fit(1, "cpu", max_concurrent=2)
        with local_ray(concurrency, log=Path(folder) / "ray.log") as scratch:
            from ray import tune

            ends, memory = list[float](), list[int]()

            class Clock(tune.Callback):
                def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
                    ends.append(time.perf_counter())
                    if len(ends) % 100 == 0:
                        memory.append(round(kept_mib()))

            tune.Tuner(
                tune.with_resources(nothing, {"cpu": concurrency.cpus_per_trial}),
                param_space={"x": tune.uniform(0, 1)},
                tune_config=tune.TuneConfig(
                    num_samples=num_trials, max_concurrent_trials=2, reuse_actors=True
                ),
                run_config=tune.RunConfig(storage_path=str(scratch), verbose=0, callbacks=[Clock()]),
            ).fit()
    return {"seconds_a_trial": pace(ends), "driver_mib_every_100_trials": memory}


def pace(ends: Sequence[float]) -> float:
    """Returns the seconds from one trial's end to the next one's, once all processes run."""
    warm = ends[WARM_UP:]
    return (warm[-1] - warm[0]) / (len(warm) - 1)


def nothing(config: dict[str, float]) -> dict[str, float]:
    """Is Tune's function."""
    return {"score": 0.5}


def resume(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the seconds from the start of a driver to its first trial, imports included."""
    seconds: list[float] = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as home:
            os.environ[HOME_VARIABLE] = home
            space = space_of(options.trials, at_once=1)
            run(space, "sweep_trainables:no_op", Watch(stop_after=options.trials - 1), name="stopped")
            began = time.perf_counter()  # of the machine, so that another process can tell the time
            again = ["resume", "--trials", str(options.trials), "--inside", "resume"]
            seconds.append(in_fresh_process(__file__, again)["placed"] - began)
            del os.environ[HOME_VARIABLE]
    return {"trials": options.trials, "seconds_to_the_first_trial": [round(value, 2) for value in seconds]}


def resumed(num_trials: int) -> dict[str, float]:
    """Goes on with the stopped sweep and returns when its first trial was handed out."""
    watch = run(space_of(num_trials, at_once=1), "sweep_trainables:no_op", name="stopped", resumes=True)
    return {"placed": watch.placed}


if __name__ == "__main__":
    main()
