"""The task of a sweep, from the data sets of its trials: classes, or several findings per image."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from orchestrator.search.space import SearchSpace
from trainables.config import Split, Task
from trainables.data.records import Dataset
from trainables.data.summary import undefined_findings
from trainables.errors import ConfigError
from trainables.scoring.metric_names import COSTS, METRICS_OF, read_key

SPLITS: dict[Split, str] = {"train": "it cannot be learned", "val": "averages on val leave it out"}
"""Split → the effect of a finding without positive or without negative images."""
KINDS: dict[Task, str] = {"multiclass": "one class per image", "multilabel": "several findings per image"}


def task_of(datasets: Collection[Dataset]) -> Task:
    """Returns the task that all data sets share.

    Raises:
        ConfigError: some data sets have classes and others findings, so their scores cannot be compared.
    """
    by_task: dict[Task, str] = {dataset.task: dataset.name for dataset in datasets}
    if len(by_task) > 1:
        found = ", and ".join(f"'{name}' has {KINDS[task]}" for task, name in by_task.items())
        raise ConfigError(f"data.dataset: {found}, so their scores cannot be compared; use two sweeps")
    return next(iter(by_task)) if by_task else "multiclass"


def check_metrics(space: SearchSpace, task: Task) -> None:
    """Checks that the objectives and constraints of a space are metrics of the task.

    Raises:
        ConfigError: the task has no such metric. The message lists the metrics of the task.
    """
    named = {"objective": space.objective, "also_minimise": space.also_minimise}
    named |= {f"constraints.{key}": key for key in space.constraints}
    for where, key in named.items():
        if key is not None and key not in COSTS and (metric := read_key(key)[2]) not in METRICS_OF[task]:
            raise ConfigError(
                f"{where}: '{metric}' is not measured, because the data have {KINDS[task]}; "
                f"measured are {', '.join(METRICS_OF[task])}"
            )


def findings_of(datasets: Collection[Dataset]) -> list[str]:
    """Returns the findings of multi-label data sets, each once, in their order. Empty for classes."""
    found = (name for dataset in datasets if dataset.task == "multilabel" for name in dataset.findings)
    return list(dict.fromkeys(found))


def finding_notes(datasets: Sequence[Dataset]) -> Iterator[str]:
    """Yields what a reader must know about the labels of a multi-label data set, of which these are folds.

    Only labels of train and val are counted.
    """
    labels = [each.known_labels(each.indices("train", "val"))[:, : len(each.findings)] for each in datasets]
    if num_unknown := sum(int((of_fold == -1).sum()) for of_fold in labels):
        share = num_unknown / sum(of_fold.size for of_fold in labels)
        yield f"unknown labels: {share:.1%} of those of train and val; they count nowhere"
    for split, effect in SPLITS.items():
        undefined = [undefined_findings(dataset, split) for dataset in datasets]
        for name in datasets[0].findings:
            num_folds = sum(name in of_fold for of_fold in undefined)
            where = "" if num_folds == len(datasets) else f" in {num_folds} of {len(datasets)} folds"
            if num_folds:
                yield f"{split} has no positive or no negative image of {name}{where}; {effect}"
