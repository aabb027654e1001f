"""What a sweep is going to do: every trial checked, every input opened, the arithmetic written out."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.confirmation import num_confirming, num_to_confirm
from orchestrator.home import HOME_VARIABLE, store
from orchestrator.resources import TRIAL_MEMORY_GB, Concurrency, fit
from orchestrator.space import SearchSpace
from trainables.artifacts import fingerprint
from trainables.config import EncoderConfig, TrialConfig, from_flat
from trainables.models.registry import encoder_fingerprint, find_encoder, preprocessing_of

if TYPE_CHECKING:
    from trainables.data.records import Dataset

EMBEDDING_BYTES = (
    4 * 2048
)  # per image and adapter, pooled and joint, float32; an upper estimate over the families


@dataclass(frozen=True)
class Batches:
    """How many optimiser steps a trial takes."""

    num_train: int
    global_batch_size: int
    num_epochs: int
    steps_per_epoch: int
    last_batch: int

    def __str__(self) -> str:
        """Reads as `600 images / 64 = 10 steps an epoch (the last of 24) × 4 epochs = 40 steps`."""
        tail = f" (the last of {self.last_batch})" if self.last_batch != self.global_batch_size else ""
        total = self.steps_per_epoch * self.num_epochs
        cut = f"{self.num_train:,} images / {self.global_batch_size} = {self.steps_per_epoch} steps an epoch"
        return f"{cut}{tail} × {self.num_epochs} epochs = {total:,} steps"


@dataclass(frozen=True)
class Plan:
    """A checked sweep. Nothing has been started or written."""

    space: SearchSpace
    num_trials: int
    num_baselines: int
    data: str
    encoder: str
    data_fingerprint: str  # of the first trial's data; folds differ
    encoder_fingerprint: str
    batches: Batches  # of the first trial
    concurrency: Concurrency
    disk_bytes: int
    free_bytes: int

    def lines(self) -> list[tuple[str, str]]:
        """Returns the plan as labelled lines."""
        space, search = self.space, self.space.search
        varied = [f"{key}: {_shown(parameter.to_dict())}" for key, parameter in space.parameters.items()]
        repeated = [f"{key}: {', '.join(map(str, values))}" for key, values in space.repeat.items()]
        early = "" if search.scheduler == "none" else f", stopped early by {search.scheduler}"
        gigabytes = self.disk_bytes / 2**30, self.free_bytes / 2**30
        lines = {
            "space": f"{space.name}: {space.about}" if space.about else space.name,
            "data": self.data,
            "encoder": self.encoder,
            "varied": "\n".join(varied),
            "searcher": f"{search.searcher}{early}" if varied else "",
            "compared": "\n".join(row["name"] for row in space.arms),
            "repeated": "\n".join(repeated),
            "baselines": ", ".join(row["name"] for row in space.baselines),
            "trials": f"{self.num_trials} + {_counted(self.num_baselines, 'baseline')}{self._confirmed()}",
            "one trial": str(self.batches),
            "objective": _objectives(space),
            "constraints": "\n".join(f"{key}: {limit}" for key, limit in space.constraints.items()),
            "at once": self.concurrency.reason,
            "memory": f"about {TRIAL_MEMORY_GB * self.concurrency.max_concurrent:.0f} GB",
            "disk": "at most {:.1f} GB, {:.0f} GB free".format(*gigabytes),
        }
        return [(label, text) for label, text in lines.items() if text]

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as JSON-like values."""
        return {
            "space": self.space.to_dict(),
            "space_fingerprint": fingerprint(self.space.to_dict()),
            "num_trials": self.num_trials,
            "num_baselines": self.num_baselines,
            "num_confirming": self.num_confirming,
            "data": self.data,
            "data_fingerprint": self.data_fingerprint,
            "encoder": self.encoder,
            "encoder_fingerprint": self.encoder_fingerprint,
            "steps_per_epoch": self.batches.steps_per_epoch,
            "num_epochs": self.batches.num_epochs,
            "max_concurrent": self.concurrency.max_concurrent,
            "reason": self.concurrency.reason,
            "disk_bytes": self.disk_bytes,
            "free_bytes": self.free_bytes,
        }

    @property
    def num_confirming(self) -> int:
        """How many trials run the best arms and the baselines on more seeds, once the search has ended."""
        return num_confirming(self.space)

    def _confirmed(self) -> str:
        """Reads as `, then 3 arms × 2 more seeds`."""
        arms, baselines = num_to_confirm(self.space)
        if not self.num_confirming:
            return ""
        who = _counted(arms, "arm") + (f" and {_counted(baselines, 'baseline')}" if baselines else "")
        return f", then {who} × {_counted(self.space.search.seeds - 1, 'more seed')}"


def make_plan(space: SearchSpace) -> Plan:
    """Checks every trial of a space against its data, its encoder and this machine.

    Raises:
        ConfigError: unknown data set or encoder, targets that match nothing, a class without prompts.
        DataError: data that is missing, unsafe, or would leak between splits.
        ClusterError: more workers than this machine has.
    """
    configs = list(space.trials_to_check())
    datasets = check_trials(configs)
    first = from_flat(space.default_config())
    dataset = datasets[first.data.model_dump_json()]
    num_baselines = sum(trial.is_baseline for trial in space.named_trials())
    num_trials = space.num_trials
    concurrency = fit(
        first.execution.num_workers,
        first.execution.device,
        num_trials=num_trials + num_baselines,
        max_concurrent=space.search.max_concurrent,
    )
    return Plan(
        space=space,
        num_trials=num_trials,
        num_baselines=num_baselines,
        data=_describe_data(dataset),
        encoder=_describe_encoder(first.encoder),
        data_fingerprint=dataset.fingerprint,
        encoder_fingerprint=encoder_fingerprint(first.encoder),
        batches=_batches(dataset, first),
        concurrency=concurrency,
        disk_bytes=_disk_bytes(configs, datasets, num_trials + num_baselines + num_confirming(space)),
        free_bytes=_free_bytes(),
    )


def check_trials(configs: list[TrialConfig]) -> dict[str, Dataset]:
    """Opens what trials read, as far as that takes no weights and no pixels.

    Returns:
        Each different data set once, by the JSON of its configuration.

    Raises:
        ConfigError, DataError: see `make_plan`.
    """
    from trainables.data.datasets import load_dataset
    from trainables.data.text import class_prompts

    _check_encoders(configs)
    datasets: dict[str, Dataset] = {}
    for config in configs:
        key = config.data.model_dump_json()
        if key not in datasets:
            datasets[key] = load_dataset(config.data)
            for family in ("training", "unseen"):
                class_prompts(datasets[key].classes, family)
    return datasets


def decode_files(space: SearchSpace) -> None:
    """Decodes the images that lie in files, once, so that a broken one is said before anything starts.

    Raises:
        DataError: lists the images that cannot be decoded, with their rows.
    """
    from trainables.data.cache import open_image_cache
    from trainables.data.datasets import load_dataset

    seen: set[tuple[str, str]] = set()
    for config in space.trials_to_check():
        dataset, preprocessing = load_dataset(config.data), preprocessing_of(config.encoder)
        key = dataset.content_fingerprint, preprocessing.model_dump_json()
        if key not in seen and dataset.records[0].path is not None:
            seen.add(key)
            open_image_cache(dataset, preprocessing, store())


def _check_encoders(configs: list[TrialConfig]) -> None:
    """Raises ConfigError for an encoder that does not exist, or LoRA targets that match nothing in it."""
    from trainables.models.targets import check_targets

    seen: set[str] = set()
    for config in configs:
        key = fingerprint(config.encoder, config.adapt, config.lora.model_dump(exclude={"rank", "scaling"}))
        if key not in seen:
            seen.add(key)
            find_encoder(config.encoder)
            check_targets(config)


def _batches(dataset: Dataset, config: TrialConfig) -> Batches:
    from trainables.data.loader import steps_per_epoch

    num_train, size = len(dataset.indices("train")), config.global_batch_size
    steps = steps_per_epoch(num_train, size)
    return Batches(num_train, size, config.num_epochs, steps, last_batch=num_train - (steps - 1) * size)


def _describe_data(dataset: Dataset) -> str:
    parts = [f"{len(dataset.indices(split)):,} {split}" for split in ("train", "val", "test")]
    patients = len({record.patient_id for record in dataset.records})
    counts = Counter(name for r in dataset.records for name, value in r.labels.items() if value == 1)
    classes = ", ".join(f"{name} {counts[name]}" for name in dataset.classes)
    return f"{dataset.name}: {' + '.join(parts)} images of {patients:,} patients (not test: {classes})"


def _describe_encoder(config: EncoderConfig) -> str:
    precision = "" if config.precision == "float32" else f" in {config.precision}"
    return f"{config.name} at {preprocessing_of(config).size} px{precision}: {find_encoder(config).about}"


def _disk_bytes(configs: list[TrialConfig], datasets: dict[str, Dataset], num_trials: int) -> int:
    """Returns an upper estimate: decoded images, one full activation cache, embeddings per trial."""
    images = {
        (dataset.content_fingerprint, preprocessing_of(config.encoder).size): len(dataset.records)
        for config in configs
        for dataset in [datasets[config.data.model_dump_json()]]
    }
    most = max(images.values())
    activations = max(config.execution.cache_budget_gb for config in configs) * 2**30
    return int(
        sum(n * size**2 for (_, size), n in images.items())
        + num_trials * most * EMBEDDING_BYTES
        + activations
    )


def _free_bytes() -> int:
    """Returns what is free where the home lies or would be made; nothing is made here."""
    folder = Path(os.environ.get(HOME_VARIABLE) or Path.home()).expanduser().absolute()
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _objectives(space: SearchSpace) -> str:
    """Returns what is maximised and minimised, and which of it a scheduler looks at."""
    if space.also_minimise is None:
        return space.objective
    both, scheduler = (
        f"{space.objective}, which ranks; minimised too: {space.also_minimise}",
        space.search.scheduler,
    )
    return both if scheduler == "none" else f"{both}. {scheduler} looks at the first one only"


def _shown(entry: dict[str, Any]) -> str:
    kind = next(kind for kind in ("choice", "float", "int") if kind in entry)
    values = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in entry[kind])
    text = values if kind == "choice" else f"{entry[kind][0]:g} to {entry[kind][1]:g}"
    text += " (log)" if entry.get("log") else ""
    when = ", ".join(
        f"{key} is {' or '.join(map(str, values))}" for key, values in entry.get("when", {}).items()
    )
    return f"{text} where {when}" if when else text


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
