"""Estimates the steps, memory and time of a sweep before it starts, and shows the arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from orchestrator.cluster.resources import (
    LEAST_FOR_GRAPHS_GB,
    LIBRARIES_GB,
    Concurrency,
    Machine,
    TrialMemory,
    counted,
)
from trainables.config import TrialConfig
from trainables.errors import UserError, WeightsUnavailable
from trainables.training.footprint import Footprint, footprint

if TYPE_CHECKING:
    from trainables.data.records import Dataset
    from trainables.training.step_timing import StepTime

# Imports inside functions: torch takes seconds to load, and checks do not need torch.

Datasets = Mapping[str, "Dataset"]
"""Data sets by the JSON of their configuration."""


@dataclass(frozen=True)
class Batches:
    """The optimiser steps of a trial."""

    num_train: int
    global_batch_size: int
    num_epochs: int
    steps_per_epoch: int
    last_batch: int

    @property
    def num_steps(self) -> int:
        """Number of steps of the whole trial."""
        return self.steps_per_epoch * self.num_epochs

    def __str__(self) -> str:
        """Returns text such as `600 images / 64 = 10 steps an epoch (the last of 24) × 4 epochs = 40 …`."""
        tail = f" (the last of {self.last_batch})" if self.last_batch != self.global_batch_size else ""
        cut = f"{self.num_train:,} images / {self.global_batch_size} = {self.steps_per_epoch} steps an epoch"
        return f"{cut}{tail} × {self.num_epochs} epochs = {self.num_steps:,} steps"


def all_batches(configs: Iterable[TrialConfig], datasets: Datasets) -> list[Batches]:
    """Returns the distinct batches of all trials that train. The batches of the first trial come first."""
    from trainables.data.loader import steps_per_epoch

    num_images = {key: len(dataset.indices("train")) for key, dataset in datasets.items()}
    found: dict[Batches, None] = {}
    for config in configs:
        if config.adapt.method != "none":
            num_train, size = num_images[config.data.model_dump_json()], config.global_batch_size
            steps = steps_per_epoch(num_train, size)
            last = num_train - (steps - 1) * size
            found[Batches(num_train, size, config.num_epochs, steps, last)] = None
    return list(found)


def describe_batches(batches: list[Batches]) -> str:
    """Returns the arithmetic of the first trial, and the ranges over all trials."""
    if not batches:
        return "nothing trains"
    if len(batches) == 1:
        return str(batches[0])
    parts = {
        "images": [b.num_train for b in batches],
        "a batch": [b.global_batch_size for b in batches],
        "epochs": [b.num_epochs for b in batches],
        "steps": [b.num_steps for b in batches],
    }
    ranges = [f"{span(values)} {name}" for name, values in parts.items() if len(set(values)) > 1]
    return f"{batches[0]}\nothers: {', '.join(ranges)}"


def span(values: list[int]) -> str:
    """Returns text such as `40` or `40 to 120`."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def trial_memory(configs: Iterable[TrialConfig], *, num_workers: int) -> TrialMemory:
    """Returns the memory of one worker of the largest trial. Unknown encoders count as small encoders."""
    shares: list[TrialMemory] = []
    for config in configs:
        if (found := footprint(config)) is None:
            shares.append(TrialMemory())
        else:
            resident, least = LIBRARIES_GB + found.resident / 2**30, found.largest_graph / 2**30
            graphs = _graph_bytes(config, found) / num_workers / 2**30
            shares.append(TrialMemory(resident, graphs, max(least, LEAST_FOR_GRAPHS_GB)))
    return TrialMemory(*(max(of) for of in zip(*map(astuple, shares), strict=True)))


def _graph_bytes(config: TrialConfig, found: Footprint) -> float:
    execution, graphs = config.execution, found.graphs_per_pair * config.global_batch_size
    if execution.memory_budget_gb is not None:
        return min(graphs, execution.memory_budget_gb * 2**30)
    if execution.micro_batch_size is not None:  # one graph at a time
        return graphs * min(1, execution.micro_batch_size / config.global_batch_size)
    return graphs


@dataclass(frozen=True)
class MemoryEstimate:
    """Upper estimates of memory, in GiB. `graphs_gb`, a part of `trial_gb`, shrinks with the micro-batch."""

    trial_gb: float
    graphs_gb: float
    num_at_once: int
    machine_gb: float
    of: str  # the owner of the memory, such as "of this machine"

    def __str__(self) -> str:
        """Returns text such as `at most 1.4 GB a trial (…), 2 at once: 2.8 of 23 GB`."""
        total = self.trial_gb * self.num_at_once
        fixed = self.trial_gb - self.graphs_gb
        parts = f"{fixed:.1f} GB libraries, weights and optimiser, the rest is activations of a batch"
        too_much = "; more than there is, so the system may kill trials" if total > self.machine_gb else ""
        return (
            f"at most {self.trial_gb:.1f} GB a trial ({parts}), {self.num_at_once} at once: {total:.1f} of "
            f"{self.machine_gb:.0f} GB {self.of}{too_much}"
        )


def estimate_memory(
    memory: TrialMemory, concurrency: Concurrency, machine: Machine, *, of: str = "of this machine"
) -> MemoryEstimate:
    """Returns the memory of trials on the host or, with GPUs, on one GPU. The memory limits the graphs."""
    num_gpus = concurrency.gpus_per_trial
    if concurrency.device == "cuda" and (gpu := machine.gpu_memory_gb) is not None:
        num_sharing = int(1 / num_gpus) if num_gpus < 1 else 1
        graphs = min(memory.graphs, max(gpu / num_sharing - memory.resident, memory.least))
        return MemoryEstimate(memory.resident + graphs, graphs, num_sharing, gpu, "of a GPU")
    budget = concurrency.memory_budget_gb
    graphs = memory.graphs if budget is None else min(memory.graphs, budget)
    workers = concurrency.num_workers
    trial = (memory.resident + graphs) * workers
    return MemoryEstimate(trial, graphs * workers, concurrency.max_concurrent, machine.memory_gb, of)


@dataclass(frozen=True)
class TimeEstimate:
    """Duration of all training and embedding, without probes. If no step was timed, `reason` says why."""

    reason: str = ""
    seconds: float | None = None
    step_seconds: float | None = None

    def __str__(self) -> str:
        """Returns text such as `about 4 min (one step takes 0.31 s; …)`, or the reason for no estimate."""
        if self.seconds is None:
            return f"not timed: {self.reason}"
        return f"about {duration(self.seconds)} ({self.reason})"


def estimate_time(
    configs: list[TrialConfig],
    datasets: Datasets,
    *,
    num_trials: int,
    num_baselines: int,
    concurrency: Concurrency,
    stops_early: bool,
) -> TimeEstimate:
    """Times one step of the first LoRA trial, and estimates the duration of all trials. Never raises.

    The first `num_baselines` of `configs` are baselines; the other `configs` represent `num_trials` trials.
    """
    with_classifiers = [config for config in configs if config.adapt.method != "none"]
    if not with_classifiers:
        return TimeEstimate("nothing trains")
    trained = [config for config in with_classifiers if not config.is_baseline]
    if not trained:
        return TimeEstimate("only steps of dual encoders are timed")
    first = next((config for config in trained if "lora" in config.adapt.method), trained[0])
    try:
        step = _time_step(first, concurrency)
    except WeightsUnavailable:
        return TimeEstimate("the weights are not on this machine")
    except UserError as error:
        return TimeEstimate(str(error))
    except Exception as error:  # a failed estimate must not stop a plan
        return TimeEstimate(f"the first step failed ({type(error).__name__}: {error})")
    searched, baselines = configs[num_baselines:] or configs, configs[:num_baselines]
    each = [_trial_seconds(config, datasets, step, concurrency.num_workers) for config in searched]
    ahead = [_trial_seconds(config, datasets, step, concurrency.num_workers) for config in baselines]
    work = sum(each) / len(each) * num_trials + sum(ahead)
    return TimeEstimate(
        _arithmetic(
            step,
            all_batches(searched, datasets),
            num_trials,
            concurrency,
            stops_early,
            not_counted="probes" if trained == with_classifiers else "probes and classifiers",
        ),
        max(work / concurrency.max_concurrent, *each, *ahead),  # no sweep is shorter than its longest trial
        step.seconds,
    )


def _trial_seconds(config: TrialConfig, datasets: Datasets, step: StepTime, num_workers: int) -> float:
    """Returns the duration of a trial. All workers share the training steps; one worker embeds images."""
    training = step.seconds_per_pair * _num_pairs(config, datasets) / num_workers
    return training + step.embed_seconds * _num_embedded(config, datasets)


def _time_step(config: TrialConfig, concurrency: Concurrency) -> StepTime:
    from orchestrator.storage.paths import store
    from trainables.training.step_timing import time_step

    threads = config.execution.num_threads or concurrency.cpus_per_trial // concurrency.num_workers
    device = "cuda:0" if concurrency.device == "cuda" else "cpu"
    return time_step(config, device=device, num_threads=max(threads, 1), store=store())


def _num_pairs(config: TrialConfig, datasets: Datasets) -> int:
    """Returns the number of pairs that a trial trains on, over all steps."""
    if config.adapt.method in ("none", "baseline"):  # the step of a classifier is not timed
        return 0
    return len(datasets[config.data.model_dump_json()].indices("train")) * config.num_epochs


def _num_embedded(config: TrialConfig, datasets: Datasets) -> int:
    """Counts the images that a trial embeds: train and val after evaluated epochs, all splits at the end."""
    if config.is_baseline:
        return 0
    dataset, every = datasets[config.data.model_dump_json()], config.execution.evaluate_every_epochs
    trains = config.adapt.method != "none"
    num_evaluated = (config.num_epochs - 1) // every if trains and every else 0
    return num_evaluated * len(dataset.indices("train", "val")) + len(dataset.records)


def _arithmetic(
    step: StepTime,
    batches: list[Batches],
    num_trials: int,
    concurrency: Concurrency,
    stops_early: bool,
    not_counted: str,
) -> str:
    timed = "" if step.num_timed == step.num_pairs else f" on {step.num_timed} of {step.num_pairs} pairs"
    numbers = [b.num_steps for b in batches]
    steps = counted(1, "step") if numbers == [1] else f"{span(numbers or [0])} steps"
    words = [
        f"one step takes {step.seconds:.2g} s, timed just now{timed}",
        f"{steps} × {counted(num_trials, 'trial')}, {concurrency.max_concurrent} at once",
        *(["fewer steps if trials stop early"] if stops_early else []),
        f"embedding an image takes {step.embed_seconds:.2g} s; {not_counted} are not counted",
    ]
    return "; ".join(words)


def duration(seconds: float) -> str:
    """Returns text such as `40 s`, `3 min` or `2.5 h`."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
