"""Plans a sweep: checks every trial, reads every input, and estimates memory, time and disk."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.fit import fit
from orchestrator.cluster.nodes import Cluster, one_node
from orchestrator.cluster.resources import Concurrency, TrialMemory, counted, this_machine
from orchestrator.planning.checks import check_trials, missing_weights
from orchestrator.planning.costs import (
    Batches,
    MemoryEstimate,
    TimeEstimate,
    all_batches,
    describe_batches,
    estimate_memory,
    estimate_time,
    trial_memory,
)
from orchestrator.planning.data_notes import plan_notes
from orchestrator.planning.disk import DiskEstimate, estimate_disk
from orchestrator.planning.tasks import check_metrics, task_of
from orchestrator.results.seed_repeats import confirmed_counts, num_confirming
from orchestrator.search.space import SearchSpace
from trainables.config import EncoderConfig, TrialConfig, from_flat
from trainables.models.catalogue.medical import seen_in_training
from trainables.models.catalogue.registry import encoder_fingerprint, find_encoder, preprocessing_of

if TYPE_CHECKING:
    from trainables.data.records import Dataset

# Imports inside functions: pyarrow and Pillow load only when a data set is read.

UNLESS_THEY_COME = "until these weights are on this machine, their rows are `unavailable`"
NOT_TIMED = TimeEstimate("not asked for")


@dataclass(frozen=True)
class Plan:
    """A sweep that has been checked, but not started. Making a plan writes no file."""

    space: SearchSpace
    num_trials: int
    num_baselines: int
    data: str
    encoder: str
    data_fingerprint: str  # of the first trial's data; folds differ
    encoder_fingerprint: str
    batches: list[Batches]  # distinct, those of the first trial first; empty if no trial trains
    concurrency: Concurrency
    trial_memory: TrialMemory
    memory: MemoryEstimate
    time: TimeEstimate
    disk: DiskEstimate
    seen_in_training: tuple[str, ...] = ()  # data sets that encoders were trained on
    missing_weights: tuple[str, ...] = ()  # one line for each model, with what to do
    notes: tuple[str, ...] = ()  # what a reader of the results must know about the data
    tracking: str = ""  # what a user must know about the MLflow store

    def lines(self) -> list[tuple[str, str]]:
        """Returns the plan as labelled lines."""
        space, search = self.space, self.space.search
        varied = [f"{key}: {parameter}" for key, parameter in space.parameters.items()]
        repeated = [f"{key}: {', '.join(map(str, values))}" for key, values in space.repeat.items()]
        early = "" if search.scheduler == "none" else f", stopped early by {search.scheduler}"
        lines = {
            "space": f"{space.name}: {space.about}" if space.about else space.name,
            "data": self.data,
            "notes": "\n".join(self.notes),
            "encoder": self.encoder,
            "not here": "\n".join([*self.missing_weights, UNLESS_THEY_COME]) if self.missing_weights else "",
            "not external": "\n".join(self.seen_in_training),
            "varied": "\n".join(varied),
            "searcher": f"{search.searcher}{early}" if varied else "",
            "compared": "\n".join(row["name"] for row in space.arms),
            "repeated": "\n".join(repeated),
            "baselines": ", ".join(row["name"] for row in space.baselines),
            "trials": f"{self.num_trials} + {counted(self.num_baselines, 'baseline')}{self._confirmed()}",
            "one trial": describe_batches(self.batches),
            "objective": _objectives(space),
            "constraints": "\n".join(f"{key}: {limit}" for key, limit in space.constraints.items()),
            "at once": self.concurrency.reason,
            "memory": str(self.memory),
            "time": str(self.time),
            "disk": str(self.disk),
            "mlflow": self.tracking,
        }
        return [(label, text) for label, text in lines.items() if text]

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as JSON-like values."""
        names = ("num_trials", "num_baselines", "num_confirming", "data", "data_fingerprint", "encoder")
        names += ("encoder_fingerprint", "seen_in_training", "missing_weights", "notes", "tracking")
        return {
            "space": self.space.to_dict(),
            "space_fingerprint": self.space.fingerprint,
            **{name: getattr(self, name) for name in names},
            "max_concurrent": self.concurrency.max_concurrent,
            "reason": self.concurrency.reason,
            "estimates": self.estimates(),
        }

    def estimates(self) -> dict[str, Any]:
        """Returns the estimates as JSON-like values."""
        return {
            "batches": [asdict(batches) for batches in self.batches],
            "memory": asdict(self.memory),
            "time": asdict(self.time),
            "disk_bytes": self.disk.total,
            "free_bytes": self.disk.free,
        }

    @property
    def num_confirming(self) -> int:
        """Number of trials that repeat the best arms and the baselines on more seeds, after the search."""
        return num_confirming(self.space)

    def _confirmed(self) -> str:
        """Returns the text about repeats for the plan, such as `, then 3 arms × 2 more seeds`."""
        arms, baselines = confirmed_counts(self.space)
        if not self.num_confirming:
            return ""
        who = counted(arms, "arm") + (f" and {counted(baselines, 'baseline')}" if baselines else "")
        return f", then {who} × {counted(self.space.search.seeds - 1, 'more seed')}"


def make_plan(space: SearchSpace, *, is_timed: bool = False, cluster: Cluster | None = None) -> Plan:
    """Checks every trial against its data, its encoder and the machine, and returns the plan of the sweep.

    Args:
        space: search space of the sweep.
        is_timed: whether to load weights and time one step of the first LoRA trial. This takes seconds.
        cluster: nodes that run the trials; None = this machine.

    Raises:
        ConfigError: unknown data set or encoder, targets that match no module, a class without prompts.
        DataError: data that are missing, unsafe, or would leak between splits.
        ClusterError: a trial has more workers than the nodes have room for.
    """
    from trainables.data.datasets import with_masks

    configs, machine = list(space.trials_to_check()), this_machine()
    datasets = check_trials(configs)
    check_metrics(space, task_of(datasets.values()))
    first = from_flat(space.default_config())
    dataset = datasets[first.data.model_dump_json()]
    num_trials, num_baselines = space.num_trials, space.num_baselines
    memory = trial_memory(configs, num_workers=first.execution.num_workers)
    concurrency = fit(
        first.execution.num_workers,
        first.execution.device,
        cluster=cluster or one_node(machine),
        num_trials=num_trials + num_baselines,
        max_concurrent=space.search.max_concurrent,
        gpus_per_trial=space.search.gpus_per_trial,
        memory=memory,
    )
    return Plan(
        space=space,
        num_trials=num_trials,
        num_baselines=num_baselines,
        data=_describe_data(dataset),
        encoder=_describe_encoder(first.encoder),
        data_fingerprint=with_masks(dataset.fingerprint, first.data_to_read),
        encoder_fingerprint=encoder_fingerprint(first.encoder),
        batches=all_batches(configs, datasets),
        concurrency=concurrency,
        trial_memory=memory,
        memory=estimate_memory(memory, concurrency, machine)
        if cluster is None
        else estimate_memory(memory, concurrency, cluster.total, of="of the cluster"),
        time=estimate_time(
            configs,
            datasets,
            num_trials=num_trials + num_confirming(space),
            num_baselines=num_baselines,
            concurrency=concurrency,
            stops_early=space.search.scheduler != "none",
        )
        if is_timed
        else NOT_TIMED,
        disk=estimate_disk(
            configs,
            datasets,
            num_trials=num_trials + num_baselines + num_confirming(space),
            max_concurrent=concurrency.max_concurrent,
        ),
        seen_in_training=_seen_in_training(configs),
        missing_weights=tuple(missing_weights(configs)),
        notes=plan_notes(datasets.values()),
    )


def _describe_data(dataset: Dataset) -> str:
    parts = [f"{len(dataset.indices(split)):,} {split}" for split in ("train", "val", "test")]
    patients = f" of {len({record.patient_id for record in dataset.records}):,} patients"
    of_patients = patients if dataset.has_patients else ""
    counts = Counter(name for r in dataset.records for name, value in r.labels.items() if value == 1)
    classes = ", ".join(f"{name} {counts[name]}" for name in dataset.classes)
    return f"{dataset.name}: {' + '.join(parts)} images{of_patients} (without test: {classes})"


def _describe_encoder(config: EncoderConfig) -> str:
    precision = "" if config.precision == "float32" else f" in {config.precision}"
    return f"{config.name} at {preprocessing_of(config).size} px{precision}: {find_encoder(config).about}"


def _seen_in_training(configs: list[TrialConfig]) -> tuple[str, ...]:
    pairs = dict.fromkeys((config.encoder.name, name) for config in configs for name in config.data.sets)
    return tuple(line for pair in pairs for line in seen_in_training(*pair))


def _objectives(space: SearchSpace) -> str:
    """Returns which metrics are maximised and minimised, and which metric a scheduler uses."""
    if space.also_minimise is None:
        return space.objective
    both, scheduler = (
        f"{space.objective} ranks the trials; also minimised: {space.also_minimise}",
        space.search.scheduler,
    )
    return both if scheduler == "none" else f"{both}. {scheduler} uses the first one only"
