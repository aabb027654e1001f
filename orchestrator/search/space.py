"""A search space: fixed values, parameters to search or arms to compare, and the resulting trials."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema

from orchestrator.search.constraints import Limit
from orchestrator.search.overrides import FROZEN, read_fixed, read_repeat, read_rows, with_frozen
from orchestrator.search.parameters import Choice, Parameter, Range, encoder_families, read_parameters
from trainables.artifacts import fingerprint
from trainables.config import DATA_READ, Config, TrialConfig, science, to_flat
from trainables.config.fields import DEFAULTS, build_trial
from trainables.errors import ConfigError
from trainables.scoring.metric_names import DEFAULT_OBJECTIVE

LARGEST_GRID = 4_096
NUM_DRAWS = 64


class SearchSettings(Config):
    """Settings of the search."""

    searcher: Literal["random", "grid", "tpe"] = Field(
        default="random", description="tpe = Optuna's TPE, which learns from finished trials."
    )
    scheduler: Literal["none", "asha", "median"] = Field(
        default="none", description="Stops unpromising trials early."
    )
    num_trials: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Number of trials without the baselines; null = 16, or the size of the grid.",
    )
    max_concurrent: int | None = Field(
        default=None, ge=1, le=10_000, description="Maximum number of trials at once; null = as many as fit."
    )
    gpus_per_trial: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | Literal["auto"] | None = Field(
        default=None,
        description="Number of GPUs for one trial. Below 1, trials of one worker share a GPU. auto = trials "
        "share a GPU if its memory is large enough. null = one GPU for each worker.",
    )
    max_retries: int = Field(
        default=1,
        ge=0,
        le=100,
        description="Maximum number of retries, from the last checkpoint, of a trial whose process died.",
    )
    max_crashes_in_a_row: int = Field(
        default=5,
        ge=1,
        le=1_000,
        description="After this many crashes in a row, the sweep starts no more trials.",
    )
    min_free_disk_gb: float = Field(
        default=1.0, ge=0, allow_inf_nan=False, description="Trials wait while less disk space is free."
    )
    checkpoint_budget_gb: float = Field(
        default=20.0,
        ge=0,
        allow_inf_nan=False,
        description="Maximum disk space for the checkpoints of failed trials.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the searcher, not of the trials.")
    seeds: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Number of training seeds on which the best arms and the baselines run after the search.",
    )
    num_confirmed: int = Field(
        default=3, ge=1, le=1_000, description="Number of best arms that run on all `seeds`."
    )


class EvaluationSettings(Config):
    """Settings of the final evaluation: which arms are scored on the test set."""

    open_test: Literal["best_and_baselines", "all"] = "best_and_baselines"


@dataclass(frozen=True)
class Draw:
    """A trial to run: one that the file names, or a sample that a searcher draws."""

    name: str
    config: TrialConfig
    is_baseline: bool = False
    number: int | None = None  # number of the sample in the searcher
    confirms: bool = False  # repeats an arm on another seed; see `results.seed_repeats`


def _read_parameters(given: Any, info: ValidationInfo) -> Any:
    if not isinstance(given, dict):
        return given
    entries = cast(dict[str, Any], given)
    return read_parameters(entries, fixed=info.data.get("fixed", {}), changed=info.context or ())


class SearchSpace(Config):
    """The content of a search-space file: `parameters` to search, or `arms` to compare over `repeat`.

    Keys are dotted field names. A *sample* has a value for each parameter. `space_file.read_space`
    builds a space and checks that its blocks fit together.
    """

    name: str = Field(default="unnamed", description="Name of the space. Default: the file's name.")
    experiment: str = Field(
        default_factory=lambda data: data["name"],
        description="Name of the MLflow experiment. Default: the space's name.",
    )
    about: str = Field(default="", description="Purpose of the space, in one sentence.")
    fixed: Annotated[dict[str, Any], AfterValidator(read_fixed)] = Field(
        default={}, description="Values of dotted fields that all trials share."
    )
    parameters: Annotated[
        dict[str, Parameter], BeforeValidator(_read_parameters), WithJsonSchema({"type": "object"})
    ] = Field(default={}, description="Fields to search, with their ranges.")
    search: SearchSettings = SearchSettings()
    objective: str = Field(
        default=DEFAULT_OBJECTIVE, description="Metric that ranks trials (higher is better)."
    )
    also_minimise: str | None = Field(
        default=None,
        description="Second objective. It marks trials on the Pareto front, but does not change the ranks.",
    )
    constraints: dict[str, Limit] = Field(
        default={}, description="Limits of metrics. A trial that violates a limit is never selected."
    )
    baselines: Annotated[
        list[Any], AfterValidator(lambda rows: with_frozen(read_rows(rows, where="baselines")))
    ] = Field(
        default=[FROZEN],
        description="Trials that always run. The frozen encoder is added if it is not listed.",
    )
    arms: Annotated[list[Any], AfterValidator(lambda rows: read_rows(rows, where="arms"))] = Field(
        default=[], description="Trials to compare, instead of a search."
    )
    repeat: Annotated[
        dict[str, list[Any]],
        AfterValidator(lambda lists, info: read_repeat(lists, fixed=info.data.get("fixed", {}))),
    ] = Field(default={}, description="Seeds or folds. Arms and baselines run with each combination.")
    evaluation: EvaluationSettings = EvaluationSettings()

    @property
    def num_trials(self) -> int:
        """Number of trials without the baselines."""
        if self.arms:
            return sum(not trial.is_baseline for trial in self.named_trials())
        if self.search.searcher == "grid":
            size = sum(1 for _ in self.grid())
            return min(size, self.search.num_trials or size)
        return (self.search.num_trials or 16) if self.parameters else 1

    @property
    def num_baselines(self) -> int:
        """Number of trials that are baselines."""
        return sum(trial.is_baseline for trial in self.named_trials())

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the values of the space. Comments in the file do not change the fingerprint."""
        return fingerprint(self.to_dict())

    def resolve(self, sample: dict[str, Any]) -> TrialConfig:
        """Returns the trial of a sample. Values of inactive parameters are ignored."""
        return build_trial(self.fixed | self.active(sample), where=self.name)

    def active(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Returns the values of the active parameters of a sample."""
        return {key: value for key, value in sample.items() if self.is_active(key, sample)}

    def is_active(self, key: str, sample: dict[str, Any]) -> bool:
        """Says whether a parameter is active: its condition holds and names only active fields."""
        for other, allowed in self.parameters[key].when.items():
            if other in self.parameters and not self.is_active(other, sample):
                return False
            value = sample[other] if other in self.parameters else self.base(other)
            if value not in allowed:
                return False
        return True

    def base(self, key: str) -> Any:
        """Returns the value of a field that is not a parameter."""
        return self.fixed.get(key, DEFAULTS[key])

    def default_sample(self) -> dict[str, Any]:
        """Returns the first sample: the default of each field, unless its range excludes this value."""
        return {key: self._default(key, parameter) for key, parameter in self.parameters.items()}

    def default_config(self) -> dict[str, Any]:
        """Returns the first trial by dotted keys. If the space has arms, this is the first baseline."""
        if self.arms:
            return to_flat(self.named_trials()[0].config)
        return to_flat(self.resolve(self.default_sample()))

    def draw(self, random_numbers: random.Random) -> dict[str, Any]:
        """Returns a random sample, with values also for inactive parameters."""
        return {key: parameter.draw(random_numbers) for key, parameter in self.parameters.items()}

    def grid(self) -> Iterator[dict[str, Any]]:
        """Yields the default sample, then each other sample once."""
        for key, parameter in self.parameters.items():
            if isinstance(parameter, Range):
                raise ConfigError(
                    f"parameters.{key}: a grid needs `choice: [...]`; or use searcher random or tpe"
                )
        size = math.prod(len(parameter.corners()) for parameter in self.parameters.values())
        if size > LARGEST_GRID:
            raise ConfigError(f"search.searcher: a grid of {size:,} trials is too large; use random or tpe")
        yield from self._different(itertools.chain([self.default_sample()], self._corners()))

    def named_trials(self) -> list[Draw]:
        """Returns baselines, then arms: one trial for each `repeat` and encoder, without duplicates."""
        encoders = {
            key: p.values
            for key, p in self.parameters.items()
            if key.startswith("encoder.") and isinstance(p, Choice)
        }
        each = {**self.repeat, **encoders}
        repeats = [dict(zip(each, values, strict=True)) for values in itertools.product(*each.values())]
        trials: dict[str, Draw] = {}
        rows = [(row, True) for row in self.baselines] + [(row, False) for row in self.arms]
        for (row, is_baseline), repeat in itertools.product(rows, repeats):
            overrides = {key: value for key, value in row.items() if key != "name"}
            config = build_trial(self.fixed | repeat | overrides, where=row["name"])
            words, flat = config.data.prompts if config.reads_words else None, to_flat(config)
            key = fingerprint(science(config), words, {name: flat[name] for name in DATA_READ})
            trials.setdefault(key, Draw(row["name"], config, is_baseline))
        return list(trials.values())

    def label(self, sample: dict[str, Any]) -> str:
        """Returns the name of a trial, made from its parameters, such as `rank=4 target_modules=all`."""
        parts: list[str] = []
        for key, value in self.active(sample).items():
            name = key.removesuffix(".kind").rpartition(".")[2]
            parts.append(f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}")
        return " ".join(parts) or "default"

    def to_dict(self) -> dict[str, Any]:
        """Returns file content from which `read_space` reads an equal space."""
        limits = {key: limit.to_dict() for key, limit in self.constraints.items()}
        parameters = {key: parameter.to_dict() for key, parameter in self.parameters.items()}
        return self.model_dump(mode="json") | {"parameters": parameters, "constraints": limits}

    def trials_to_check(self) -> Iterator[TrialConfig]:
        """Yields trials that represent the space: named trials, the default, all corners, random draws."""
        yield from (trial.config for trial in self.named_trials())
        if self.arms:
            return
        random_numbers = random.Random(self.search.seed)
        draws = (self.draw(random_numbers) for _ in range(NUM_DRAWS))
        samples = itertools.chain([self.default_sample()], self._corners(), draws)
        yield from map(self.resolve, self._different(samples))

    def _corners(self) -> Iterator[dict[str, Any]]:
        """Yields all combinations of choices and range ends. In a large space, varies only one parameter."""
        ends = {key: parameter.corners() for key, parameter in self.parameters.items()}
        if math.prod(map(len, ends.values())) <= LARGEST_GRID:
            yield from (dict(zip(ends, values, strict=True)) for values in itertools.product(*ends.values()))
        else:
            yield from (
                self.default_sample() | {key: value} for key, values in ends.items() for value in values
            )

    def _default(self, key: str, parameter: Parameter) -> Any:
        value = DEFAULTS[key]
        if key == "optim.learning_rate":
            families = encoder_families(self.fixed, self.parameters)
            value = families[0].learning_rate if len(families) == 1 else value
        if parameter.contains(value):
            return value
        return parameter.values[0] if isinstance(parameter, Choice) else parameter.middle()

    def _different(self, samples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        seen: set[str] = set()
        for sample in samples:
            active = self.active(sample)
            if (key := fingerprint(active)) not in seen:
                seen.add(key)
                yield active
