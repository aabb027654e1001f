"""A search space: fixed values, parameters that vary, arms that are compared, and the trials of all of it."""

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
from trainables.config import Config, TrialConfig, science, to_flat
from trainables.config.fields import DEFAULTS, build_trial
from trainables.errors import ConfigError
from trainables.scoring.metric_names import DEFAULT_OBJECTIVE

LARGEST_GRID = 4_096
NUM_DRAWS = 64


class SearchSettings(Config):
    """How the parameters are searched."""

    searcher: Literal["random", "grid", "tpe"] = Field(
        default="random", description="tpe = Optuna's, which learns from finished trials."
    )
    scheduler: Literal["none", "asha", "median"] = Field(
        default="none", description="Stops unpromising trials early."
    )
    num_trials: int | None = Field(
        default=None, ge=1, le=100_000, description="Trials without the baselines; null = 16, or the grid."
    )
    max_concurrent: int | None = Field(
        default=None, ge=1, le=10_000, description="Trials at once; null = as many as fit."
    )
    gpus_per_trial: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | Literal["auto"] | None = Field(
        default=None,
        description="GPUs of one trial. Below 1, trials of one worker share a GPU; auto = they share it if "
        "its memory allows; null = a GPU for each worker.",
    )
    max_retries: int = Field(
        default=1,
        ge=0,
        le=100,
        description="Retries of a trial whose process died, from its last checkpoint.",
    )
    max_crashes_in_a_row: int = Field(
        default=5,
        ge=1,
        le=1_000,
        description="After so many crashes, the sweep starts no more trials: the machine is at fault.",
    )
    min_free_disk_gb: float = Field(
        default=1.0, ge=0, allow_inf_nan=False, description="With less free disk, trials wait."
    )
    checkpoint_budget_gb: float = Field(
        default=20.0, ge=0, allow_inf_nan=False, description="Disk for the checkpoints of failed trials."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the draws; the trials have their own `seed`.")
    seeds: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Number of training seeds of the best arms and the baselines, after the search.",
    )
    num_confirmed: int = Field(
        default=3, ge=1, le=1_000, description="Number of best arms that run on all `seeds`."
    )


class EvaluationSettings(Config):
    """The arms that are scored on the test set, once, at the end."""

    open_test: Literal["best_and_baselines", "all"] = "best_and_baselines"


@dataclass(frozen=True)
class Draw:
    """A trial to run: one that the file names, or a sample that a searcher draws."""

    name: str
    config: TrialConfig
    is_baseline: bool = False
    number: int | None = None  # the searcher's own name for it
    confirms: bool = False  # an arm on another seed, drawn by `results.seed_repeats`


def _read_parameters(given: Any, info: ValidationInfo) -> Any:
    if not isinstance(given, dict):
        return given
    entries = cast(dict[str, Any], given)
    return read_parameters(entries, fixed=info.data.get("fixed", {}), changed=info.context or ())


class SearchSpace(Config):
    """What a sweep tries, as its file says it: `parameters` to search, or `arms` to compare over `repeat`.

    Keys are dotted field names. A *sample* is a value for each parameter that counts. `space_file.read_space`
    builds a space and checks its blocks against each other.
    """

    name: str = Field(default="unnamed", description="Default: the file's name.")
    experiment: str = Field(
        default_factory=lambda data: data["name"], description="Experiment in MLflow. Default: the name."
    )
    about: str = Field(default="", description="What the space is for, in one sentence.")
    fixed: Annotated[dict[str, Any], AfterValidator(read_fixed)] = Field(
        default={}, description="Values of dotted fields that all trials share."
    )
    parameters: Annotated[
        dict[str, Parameter], BeforeValidator(_read_parameters), WithJsonSchema({"type": "object"})
    ] = Field(default={}, description="Fields to search, with their ranges.")
    search: SearchSettings = SearchSettings()
    objective: str = Field(default=DEFAULT_OBJECTIVE, description="Ranks trials; higher is better.")
    also_minimise: str | None = Field(
        default=None,
        description="A second objective. Trials on the Pareto front are marked; `objective` ranks.",
    )
    constraints: dict[str, Limit] = Field(
        default={}, description="A trial that violates one is infeasible: never the best."
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
    ] = Field(default={}, description="Arms and baselines run with each combination of these.")
    evaluation: EvaluationSettings = EvaluationSettings()

    @property
    def num_trials(self) -> int:
        """How many trials run in addition to the baselines."""
        if self.arms:
            return sum(not trial.is_baseline for trial in self.named_trials())
        if self.search.searcher == "grid":
            size = sum(1 for _ in self.grid())
            return min(size, self.search.num_trials or size)
        return (self.search.num_trials or 16) if self.parameters else 1

    @property
    def num_baselines(self) -> int:
        """How many baselines run."""
        return sum(trial.is_baseline for trial in self.named_trials())

    @property
    def fingerprint(self) -> str:
        """Identifies a space by its values, not by its file."""
        return fingerprint(self.to_dict())

    def resolve(self, sample: dict[str, Any]) -> TrialConfig:
        """Returns the trial of a sample, without the values of parameters that do not count."""
        return build_trial(self.fixed | self.active(sample), where=self.name)

    def active(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Returns the part of a sample that counts."""
        return {key: value for key, value in sample.items() if self.is_active(key, sample)}

    def is_active(self, key: str, sample: dict[str, Any]) -> bool:
        """Says whether a parameter counts: its condition holds, and the fields in the condition count too."""
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
        """Returns the sample of the first trial: the default of each field if its range contains it."""
        return {key: self._default(key, parameter) for key, parameter in self.parameters.items()}

    def default_config(self) -> dict[str, Any]:
        """Returns the first trial, or with arms the first baseline, by dotted keys."""
        if self.arms:
            return to_flat(self.named_trials()[0].config)
        return to_flat(self.resolve(self.default_sample()))

    def draw(self, random_numbers: random.Random) -> dict[str, Any]:
        """Returns a random sample, with a value even for parameters that do not count in it."""
        return {key: parameter.draw(random_numbers) for key, parameter in self.parameters.items()}

    def grid(self) -> Iterator[dict[str, Any]]:
        """Yields each different sample once, the default first."""
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
        """Returns the baselines, then the arms, each over `repeat` and every encoder, without duplicates."""
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
            trials.setdefault(fingerprint(science(config)), Draw(row["name"], config, is_baseline))
        return list(trials.values())

    def label(self, sample: dict[str, Any]) -> str:
        """Returns the name of a trial: its parameters, such as `rank=4 target_modules=all`."""
        parts: list[str] = []
        for key, value in self.active(sample).items():
            name = key.removesuffix(".kind").rpartition(".")[2]
            parts.append(f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}")
        return " ".join(parts) or "default"

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of a file from which `read_space` reads an equal space."""
        limits = {key: limit.to_dict() for key, limit in self.constraints.items()}
        parameters = {key: parameter.to_dict() for key, parameter in self.parameters.items()}
        return self.model_dump(mode="json") | {"parameters": parameters, "constraints": limits}

    def trials_to_check(self) -> Iterator[TrialConfig]:
        """Yields trials that stand for all: named ones, the default, every corner, and seeded draws."""
        yield from (trial.config for trial in self.named_trials())
        if self.arms:
            return
        random_numbers = random.Random(self.search.seed)
        draws = (self.draw(random_numbers) for _ in range(NUM_DRAWS))
        samples = itertools.chain([self.default_sample()], self._corners(), draws)
        yield from map(self.resolve, self._different(samples))

    def _corners(self) -> Iterator[dict[str, Any]]:
        """Yields all combinations of choices and range ends; in a large space, one parameter at a time."""
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
