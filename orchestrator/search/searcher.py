"""Chooses the next trial: first the named trials, then drawn samples. Imports neither Ray nor torch."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.search.parameters import Choice
from orchestrator.search.space import Draw, SearchSpace
from trainables.artifacts import fingerprint
from trainables.config import to_flat
from trainables.scoring.metric_names import own_key

MAX_REPEATS = 100
"""A space counts as exhausted after this many repeated samples in a row."""

Metrics = Mapping[str, float]


class Searcher(Protocol):
    """Returns the next trial on request, and may learn from the metrics of finished trials."""

    def ask(self) -> Draw | None:
        """Returns the next trial, or None if there are no more trials."""
        ...

    def tell(self, draw: Draw, metrics: Metrics | None) -> None:
        """Records the metrics of a finished trial; None = the trial failed."""
        ...


def open_searcher(space: SearchSpace) -> Searcher:
    """Creates the searcher of a space. A searcher returns baselines and arms in file order, then samples."""
    named = space.named_trials()
    if space.arms:
        return ListSearcher(iter(named))
    if space.parameters and space.search.searcher == "tpe":
        return TpeSearcher(named, space)
    samples = space.grid() if space.search.searcher == "grid" else _random_samples(space)
    drawn = (Draw(space.label(sample), space.resolve(sample)) for sample in samples)
    return ListSearcher(itertools.chain(named, itertools.islice(drawn, space.num_trials)))


def _random_samples(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Yields the default sample, then distinct random samples until no new sample is found."""
    random_numbers = random.Random(space.search.seed)
    sample, seen, num_repeats = space.default_sample(), set[str](), 0
    while num_repeats < MAX_REPEATS:
        key = fingerprint(space.active(sample))
        num_repeats = num_repeats + 1 if key in seen else 0
        if key not in seen:
            seen.add(key)
            yield sample
        sample = space.draw(random_numbers)


@dataclass
class ListSearcher:
    """A searcher that returns a fixed list of trials."""

    draws: Iterator[Draw]

    def ask(self) -> Draw | None:
        """Returns the next trial of the list."""
        return next(self.draws, None)

    def tell(self, draw: Draw, metrics: Metrics | None) -> None:
        """Does nothing, because the list is fixed."""


@dataclass
class TpeSearcher:
    """A searcher that returns the named trials, then samples of Optuna's tree-structured Parzen estimator.

    The first sample is the default. Optuna suggests only active parameters, so it never learns from inactive
    ones. A repeated sample is not run again: Optuna gets the metrics of the first run. With `also_minimise`,
    Optuna has two objectives. Optuna also gets the excess of each constraint.
    """

    named: list[Draw]
    space: SearchSpace
    measured: dict[str, Metrics | None] = field(default_factory=dict[str, "Metrics | None"])  # by sample
    waiting: dict[str, list[Any]] = field(default_factory=dict[str, "list[Any]"])  # repeated samples
    samples: dict[int, str] = field(default_factory=dict[int, str])
    asked: dict[int, Any] = field(default_factory=dict[int, Any])  # Optuna's running trials

    def __post_init__(self) -> None:
        import optuna  # takes a second to import, and only this searcher needs it

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        sampler = optuna.samplers.TPESampler(seed=self.space.search.seed)
        is_double = self.space.also_minimise is not None
        self.study = optuna.create_study(
            directions=["maximize", "minimize"] if is_double else ["maximize"], sampler=sampler
        )
        self.study.enqueue_trial(self.space.active(self.space.default_sample()))

    def ask(self) -> Draw | None:
        """Returns a named trial, or a new sample."""
        if self.named:
            return self.named.pop(0)
        if len(self.samples) == self.space.num_trials:
            return None
        for _ in range(MAX_REPEATS):
            trial = self.study.ask()
            sample = self._suggest(trial)
            key = fingerprint(sample)
            if key not in self.samples.values():
                self.samples[trial.number], self.asked[trial.number] = key, trial
                return Draw(self.space.label(sample), self.space.resolve(sample), number=trial.number)
            if key in self.measured:
                self._tell(trial, self.measured[key])
            else:
                self.waiting.setdefault(key, []).append(trial)
        return None

    def tell(self, draw: Draw, metrics: Metrics | None) -> None:
        """Passes the metrics to Optuna, for this sample and for its repeats."""
        if draw.number is None:
            return
        key, config = self.samples[draw.number], to_flat(draw.config)
        if metrics is not None:
            wanted = (self.space.objective, self.space.also_minimise, *self.space.constraints)
            owned = {goal: own_key(goal, config) for goal in wanted if goal}
            metrics = {**metrics, **{goal: metrics[own] for goal, own in owned.items() if own in metrics}}
        self.measured[key] = metrics
        for trial in [self.asked.pop(draw.number), *self.waiting.pop(key, [])]:
            self._tell(trial, metrics)

    def _tell(self, trial: Any, metrics: Metrics | None) -> None:
        """Ends a trial of Optuna. The trial fails if an objective or constraint has no value."""
        state, limits = self._optuna.trial.TrialState, self.space.constraints
        goals = [self.space.objective, *filter(None, [self.space.also_minimise])]
        if metrics is None or not metrics.keys() >= {*goals, *limits}:
            self.study.tell(trial, state=state.FAIL)
            return
        for key, limit in limits.items():
            trial.set_constraint(key, limit.excess(metrics[key]))
        self.study.tell(trial, [metrics[goal] for goal in goals])

    def _suggest(self, trial: Any) -> dict[str, Any]:
        sample: dict[str, Any] = {}
        for key, parameter in self.space.parameters.items():  # conditions name only fields above
            if not self.space.is_active(key, sample):
                continue
            if isinstance(parameter, Choice):
                sample[key] = trial.suggest_categorical(key, list(parameter.values))
            elif parameter.is_integer:
                sample[key] = trial.suggest_int(
                    key, int(parameter.low), int(parameter.high), log=parameter.log
                )
            else:
                sample[key] = trial.suggest_float(key, parameter.low, parameter.high, log=parameter.log)
        return sample
