"""Reads search-space files, and checks names, bounds and every corner before anything starts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from orchestrator.search.constraints import Limit
from orchestrator.search.metric_keys import check_measured
from orchestrator.search.overrides import settle_precision
from orchestrator.search.space import EvaluationSettings, SearchSettings, SearchSpace
from trainables.config.fields import FIELDS, explain, nearest_or_all, read_overrides
from trainables.errors import ConfigError
from trainables.plain_yaml import read_yaml
from trainables.scoring.metric_names import COSTS, LOWER_IS_BETTER, OBJECTIVE_METRICS, SECONDS

BLOCKS = tuple(SearchSpace.model_fields)
OVERRIDABLE = (
    "name",
    "experiment",
    "objective",
    "also_minimise",
    *(f"search.{name}" for name in SearchSettings.model_fields),
    *(f"evaluation.{name}" for name in EvaluationSettings.model_fields),
)


def load_space(path: Path, overrides: Sequence[str] = ()) -> SearchSpace:
    """Reads the search space of a YAML file, and checks every corner of the space.

    Args:
        path: the YAML file.
        overrides: `key=value`, with the value as YAML. A field of a trial becomes fixed: it is no longer
            searched or repeated. Keys in `OVERRIDABLE` replace the value of the file.

    Raises:
        ConfigError: the space is invalid. The message says where, what is wrong, and the nearest valid name.
    """
    changes = read_overrides(overrides, also=OVERRIDABLE)
    content = read_yaml(path)
    try:
        return read_space({"name": path.stem} | _blocks(content), changes=changes)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_space(content: dict[str, Any], *, changes: dict[str, Any] | None = None) -> SearchSpace:
    """Checks the content of a file, or of `SearchSpace.to_dict()`, and returns the space."""
    changes = changes or {}
    try:
        blocks = settle_precision(_override(_blocks(content), changes))
        space = SearchSpace.model_validate(blocks, strict=True, context=changes)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error
    _check_arms(space)
    _check_objectives(space)
    _check_seeds(space)
    if space.search.searcher == "grid":
        next(space.grid())
    for _ in space.trials_to_check():  # building a trial checks it
        pass
    return space


def _blocks(content: Any) -> dict[str, Any]:
    """Returns the blocks of a file that are not empty."""
    if not isinstance(content, dict):
        raise ConfigError(f"a search space is a mapping with the keys {', '.join(BLOCKS)}")
    blocks = {key: value for key, value in cast(dict[str, Any], content).items() if value is not None}
    for key in blocks:
        if key not in BLOCKS:
            raise ConfigError(f"{key}: no such key{nearest_or_all(key, BLOCKS)}")
    return blocks


def _override(blocks: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Applies the changes to the blocks. A changed field is fixed: neither searched nor repeated."""
    blocks = {key: copy.copy(value) for key, value in blocks.items()}
    for key, value in changes.items():
        block, _, word = key.partition(".")
        if key in FIELDS:
            arms = cast(list[Any], arms) if isinstance(arms := blocks.get("arms"), list) else []
            if any(key in row for row in arms if isinstance(row, dict)):
                raise ConfigError(f"--set {key}: the arms set this field; change the arms in the file")
            for name in ("parameters", "repeat"):
                _mapping(blocks, name).pop(key, None)
            block, word = "fixed", key
        if word:
            _mapping(blocks, block)[word] = value
        else:
            blocks[key] = value
    return blocks


def _mapping(blocks: dict[str, Any], name: str) -> dict[str, Any]:
    block = blocks.setdefault(name, {})
    if not isinstance(block, dict):
        raise ConfigError(f"{name}: must be a mapping")
    return cast(dict[str, Any], block)


def _explain(error: ValidationError) -> str:
    """Returns the first problem as one line. For an unknown key, the line names the nearest known key."""
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "extra_forbidden":
        *outer, key = map(str, problem["loc"])
        model = {"search": SearchSettings, "evaluation": EvaluationSettings}.get(outer[0], Limit)
        return f"{'.'.join([*outer, key])}: no such key{nearest_or_all(key, model.model_fields)}"
    return explain(error)


def _check_arms(space: SearchSpace) -> None:
    if space.arms and space.parameters:
        raise ConfigError("arms: a space with arms has nothing to search; remove the parameters or the arms")
    if space.arms and space.search.num_trials is not None:
        raise ConfigError(
            "search.num_trials (--trials): all arms run, so their number cannot be set; leave it out"
        )
    if space.repeat and not space.arms:
        raise ConfigError("repeat: there are no arms to repeat; add arms, or leave repeat out")


def _check_objectives(space: SearchSpace) -> None:
    """Checks that all trials measure the objectives and constraints, even if trials stop early."""
    check = partial(
        check_measured, features=space.base("probe.features"), families=space.base("zero_shot.prompts")
    )
    check(space.objective, where="objective", metrics=OBJECTIVE_METRICS)
    if space.also_minimise is not None:
        check(space.also_minimise, where="also_minimise", metrics=LOWER_IS_BETTER, costs=COSTS)
    for key in space.constraints:
        check(key, where=f"constraints.{key}", costs=COSTS)
    if space.search.scheduler != "none" and SECONDS in (space.also_minimise, *space.constraints):
        raise ConfigError(
            f"search.scheduler: {space.search.scheduler} stops trials early, so {SECONDS} cannot be "
            "compared; use search.scheduler=none"
        )


def _check_seeds(space: SearchSpace) -> None:
    """Checks that only `search.seeds` sets the seeds of an arm."""
    if space.search.seeds == 1:
        return
    where = f"search.seeds={space.search.seeds}"
    if space.arms:
        raise ConfigError(f"{where}: only searched arms are repeated; to repeat these arms, use repeat.seed")
    for row in space.baselines:
        if "seed" in row:
            raise ConfigError(f"{where}: baseline '{row['name']}' sets a seed; remove that seed")
