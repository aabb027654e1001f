"""Which trial comes next: named ones first, then what a searcher draws. Knows neither Ray nor torch."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.parameters import Choice
from orchestrator.space import SearchSpace
from trainables.artifacts import fingerprint
from trainables.config import TrialConfig

MAX_REPEATS = 100
"""So many samples in a row that were all drawn before mean that a space is exhausted."""


@dataclass(frozen=True)
class Draw:
    """A trial to run. `number` is the searcher's own, for `tell`."""

    name: str
    config: TrialConfig
    is_baseline: bool = False
    number: int | None = None


class Searcher(Protocol):
    """Asked for a trial whenever a place is free, told what each drawn one scored."""

    def ask(self) -> Draw | None:
        """Returns the next trial, or None at the end."""
        ...

    def tell(self, draw: Draw, score: float | None) -> None:
        """Takes in a finished trial; None = it failed."""
        ...


def open_searcher(space: SearchSpace) -> Searcher:
    """Returns what draws the trials of a space: baselines and arms in the file's order, then the search."""
    named = [Draw(trial.name, trial.config, trial.is_baseline) for trial in space.named_trials()]
    if space.arms:
        return ListSearcher(iter(named))
    if space.parameters and space.search.searcher == "tpe":
        return TpeSearcher(named, space)
    samples = space.grid() if space.search.searcher == "grid" else _random_samples(space)
    drawn = (Draw(space.label(sample), space.resolve(sample)) for sample in samples)
    return ListSearcher(itertools.chain(named, itertools.islice(drawn, space.num_trials)))


def _random_samples(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Yields different samples, the default first; ends where new ones no longer turn up."""
    random_numbers = random.Random(space.search.seed)
    sample, seen, num_repeats = space.default_sample(), set[str](), 0
    while num_repeats < MAX_REPEATS:
        key = fingerprint({name: value for name, value in sample.items() if space.is_active(name, sample)})
        num_repeats = num_repeats + 1 if key in seen else 0
        if key not in seen:
            seen.add(key)
            yield sample
        sample = space.draw(random_numbers)


@dataclass
class ListSearcher:
    """Draws that do not depend on scores."""

    draws: Iterator[Draw]

    def ask(self) -> Draw | None:
        """Returns the next of the list."""
        return next(self.draws, None)

    def tell(self, draw: Draw, score: float | None) -> None:
        """Learns nothing."""


@dataclass
class TpeSearcher:
    """Optuna's tree-structured Parzen estimator, after the named trials; the default sample first.

    A parameter whose `when` does not hold is not suggested, so that it is learnt from only where it counts. A
    sample that was drawn before counts as no trial: its score is told again as soon as it is known.
    """

    named: list[Draw]
    space: SearchSpace
    scores: dict[str, float | None] = field(default_factory=dict[str, "float | None"])  # by sample
    waiting: dict[str, list[int]] = field(default_factory=dict[str, "list[int]"])  # repeats of running trials
    samples: dict[int, str] = field(default_factory=dict[int, str])

    def __post_init__(self) -> None:
        import optuna  # a second of imports: only where it is used

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        sampler = optuna.samplers.TPESampler(seed=self.space.search.seed)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.study.enqueue_trial(self._active(self.space.default_sample()))

    def ask(self) -> Draw | None:
        """Returns a named trial, or a sample that was not drawn before."""
        if self.named:
            return self.named.pop(0)
        if len(self.samples) == self.space.num_trials:
            return None
        for _ in range(MAX_REPEATS):
            trial = self.study.ask()
            sample = self._suggest(trial)
            key = fingerprint(sample)
            if key not in self.samples.values():
                self.samples[trial.number] = key
                return Draw(self.space.label(sample), self.space.resolve(sample), number=trial.number)
            if key in self.scores:
                self._tell(trial.number, self.scores[key])
            else:
                self.waiting.setdefault(key, []).append(trial.number)
        return None

    def tell(self, draw: Draw, score: float | None) -> None:
        """Hands the score to the estimator, also for repeats of the same sample."""
        if draw.number is None:
            return
        key = self.samples[draw.number]
        self.scores[key] = score
        for number in [draw.number, *self.waiting.pop(key, [])]:
            self._tell(number, score)

    def _tell(self, number: int, score: float | None) -> None:
        state = self._optuna.trial.TrialState
        self.study.tell(number, score, state=state.FAIL if score is None else state.COMPLETE)

    def _suggest(self, trial: Any) -> dict[str, Any]:
        sample: dict[str, Any] = {}
        for key, parameter in self.space.parameters.items():  # a condition names what stands above it
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

    def _active(self, sample: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in sample.items() if self.space.is_active(key, sample)}
