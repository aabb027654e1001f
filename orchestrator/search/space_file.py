"""YAML → SearchSpace: names, bounds and every corner are checked before anything starts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from orchestrator.search.constraints import read_limits
from orchestrator.search.metric_keys import check_measured
from orchestrator.search.parameters import Parameter, family_words, read_parameter
from orchestrator.search.space import (
    FROZEN,
    EvaluationSettings,
    SearchSettings,
    SearchSpace,
)
from trainables.config import Config
from trainables.config.fields import DEFAULTS, FIELDS, check_value, did_you_mean, explain, read_overrides
from trainables.errors import ConfigError
from trainables.plain_yaml import read_yaml
from trainables.scoring.metric_names import (
    COSTS,
    DEFAULT_OBJECTIVE,
    LOWER_IS_BETTER,
    OBJECTIVE_METRICS,
    SECONDS,
)
from trainables.training.hardware import device_kind, faster_precision

BLOCKS: dict[str, type] = {
    "name": str,
    "experiment": str,
    "about": str,
    "fixed": dict,
    "parameters": dict,
    "search": dict,
    "objective": str,
    "also_minimise": str,
    "constraints": dict,
    "baselines": list,
    "arms": list,
    "repeat": dict,
    "evaluation": dict,
}
REPEATABLE = ("seed", "data.fold")  # what intervals of an arm group by: see `trainables.config.arm_key`
OVERRIDABLE = (
    "name",
    "experiment",
    "objective",
    "also_minimise",
    *(f"search.{name}" for name in SearchSettings.model_fields),
    *(f"evaluation.{name}" for name in EvaluationSettings.model_fields),
)


def load_space(path: Path, overrides: Sequence[str] = ()) -> SearchSpace:
    """Reads a search space and checks every corner of it.

    Args:
        path: the YAML file.
        overrides: `key=value`, the value as YAML. A field is fixed, no longer searched or repeated;
            `search.*`, `evaluation.*`, `objective`, `also_minimise`, `name` and `experiment` replace what
            the file says.

    Raises:
        ConfigError: what, where, and the nearest valid name.
    """
    changes = read_overrides(overrides, also=OVERRIDABLE)
    content = read_yaml(path)
    try:
        return read_space({"name": path.stem} | _blocks(content), changes=changes)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_space(content: dict[str, Any], *, changes: dict[str, Any] | None = None) -> SearchSpace:
    """Returns the space of a file's content, or of `SearchSpace.to_dict()`.

    Raises:
        ConfigError: see `load_space`.
    """
    changes = changes or {}
    blocks = _blocks(_override(_blocks(content), changes))
    fixed = blocks.get("fixed", {})
    _check_values(fixed, where="fixed")
    if fixed.get("encoder.precision") == "auto":  # once: a sweep that goes on elsewhere stays what it is
        device = device_kind(fixed.get("execution.device", "auto"))
        fixed = fixed | {"encoder.precision": faster_precision(device)}
    if fixed.get("data.root"):  # workers start in another folder
        fixed = fixed | {"data.root": str(Path(fixed["data.root"]).expanduser().absolute())}
    features = fixed.get("probe.features", DEFAULTS["probe.features"])
    families = fixed.get("zero_shot.prompts", DEFAULTS["zero_shot.prompts"])
    space = SearchSpace(
        name=blocks.get("name", "unnamed"),
        experiment=blocks.get("experiment", blocks.get("name", "unnamed")),
        about=blocks.get("about", ""),
        fixed=fixed,
        parameters=_read_parameters(blocks.get("parameters", {}), fixed, changes),
        search=_settings(SearchSettings, blocks, "search"),
        objective=blocks.get("objective", DEFAULT_OBJECTIVE),
        also_minimise=blocks.get("also_minimise"),
        constraints=read_limits(blocks.get("constraints", {}), features=features, families=families),
        baselines=_with_frozen(_read_rows(blocks.get("baselines", []), where="baselines")),
        arms=_read_rows(blocks.get("arms", []), where="arms"),
        repeat=_read_repeat(blocks.get("repeat", {}), fixed),
        evaluation=_settings(EvaluationSettings, blocks, "evaluation"),
    )
    _check_arms(space)
    _check_objectives(space)
    _check_seeds(space)
    if space.search.searcher == "grid":
        next(space.grid())
    for _ in space.trials_to_check():  # building one checks it
        pass
    return space


def _blocks(content: Any) -> dict[str, Any]:
    """Returns the top level of a file, each block of its own type, empty ones left out."""
    if not isinstance(content, dict):
        raise ConfigError(f"a search space is a mapping with the keys {', '.join(BLOCKS)}")
    blocks = {key: value for key, value in cast(dict[str, Any], content).items() if value is not None}
    for key, value in blocks.items():
        if key not in BLOCKS:
            known = did_you_mean(key, BLOCKS) or f" (known: {', '.join(BLOCKS)})"
            raise ConfigError(f"{key}: no such key{known}")
        if not isinstance(value, BLOCKS[key]):
            kinds = {str: "text", dict: "a mapping", list: "a list"}
            raise ConfigError(f"{key}: must be {kinds[BLOCKS[key]]}")
    return blocks


def _override(blocks: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Returns the blocks with the changes: a changed field is fixed, neither searched nor repeated."""
    blocks = {key: copy.copy(value) for key, value in blocks.items()}
    for key, value in changes.items():
        if key in FIELDS:
            if any(key in row for row in blocks.get("arms", []) if isinstance(row, dict)):
                raise ConfigError(f"--set {key}: the arms set it themselves; change them in the file")
            for block in ("parameters", "repeat"):
                blocks.get(block, {}).pop(key, None)
            blocks.setdefault("fixed", {})[key] = value
        elif "." in key:
            block, _, word = key.partition(".")
            blocks.setdefault(block, {})[word] = value
        else:
            blocks[key] = value
    return blocks


def _check_values(values: dict[str, Any], *, where: str) -> None:
    for key, value in values.items():
        if key == "encoder.precision" and value == "auto" and where != "fixed":
            raise ConfigError(
                f"{where}.{key}: auto is settled once, for the whole sweep, so it stands under fixed; here "
                "write float32 or bfloat16"
            )
        if isinstance(value, dict):
            inner = next(iter(cast(dict[str, Any], value)), "rank")
            raise ConfigError(f"{where}.{key}: write dotted names on one level, such as '{key}.{inner}: ...'")
        check_value(key, value, where=f"{where}.{key}")


def _read_parameters(
    entries: dict[str, Any], fixed: dict[str, Any], changes: dict[str, Any]
) -> dict[str, Parameter]:
    """Reads from top to bottom: a condition may only name what stands above it, so there are no circles."""
    parameters: dict[str, Parameter] = {}
    for key, entry in entries.items():
        where = f"parameters.{key}"
        if key in fixed:
            raise ConfigError(f"{where}: also set under fixed; keep one of them")
        _check_searchable(key, where=where)
        parameter = read_parameter(key, entry, family=family_words(entry, fixed, parameters), where=where)
        impossible = [other for other in parameter.when if not _can_hold(parameter, other, fixed, parameters)]
        for other in parameter.when:
            if other == key or (other in entries and other not in parameters):
                raise ConfigError(f"{where}.when.{other}: must stand above '{key}' under parameters")
        if not impossible:
            parameters[key] = parameter
        elif not any(other in changes for other in impossible):
            allowed = list(parameter.when[impossible[0]])
            raise ConfigError(
                f"{where}.when.{impossible[0]}: never one of {allowed}, so '{key}' would never vary"
            )
    return parameters


def _check_searchable(key: str, *, where: str) -> None:
    if key.startswith("execution."):
        raise ConfigError(
            f"{where}: execution never changes a result, so there is nothing to search; put it under fixed"
        )
    if key in (*REPEATABLE, "data.seed"):
        raise ConfigError(
            f"{where}: choosing a seed or fold by its score is no result; compare arms over `repeat`"
        )
    searchable = ("data.augmentation", "data.num_views", "data.captions")
    if key in FIELDS and key.startswith("data.") and key not in searchable:
        raise ConfigError(f"{where}: scores on different data do not compare; run one sweep for each")


def _can_hold(
    parameter: Parameter, other: str, fixed: dict[str, Any], parameters: dict[str, Parameter]
) -> bool:
    allowed = parameter.when[other]
    if other not in parameters:
        return fixed.get(other, DEFAULTS[other]) in allowed
    return any(parameters[other].contains(value) for value in allowed)


def _read_rows(rows: list[Any], *, where: str) -> list[dict[str, Any]]:
    """Reads baselines or arms: a name that is not used twice, and overrides."""
    names: set[str] = set()
    for position, row in enumerate(rows):
        place = f"{where}[{position}]"
        if not isinstance(row, dict) or not isinstance(cast(dict[str, Any], row).get("name"), str):
            raise ConfigError(f"{place}: write a mapping with a `name` and overrides, such as {FROZEN}")
        overrides = dict(cast(dict[str, Any], row))
        name = overrides.pop("name")
        if name in names:
            raise ConfigError(f"{place}.name: '{name}' stands twice")
        names.add(name)
        _check_values(overrides, where=place)
    return rows


def _with_frozen(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the baselines with the frozen encoder among them: without it no gain can be read off."""
    return rows if any(row.get("adapt.method") == "none" for row in rows) else [FROZEN, *rows]


def _read_repeat(lists: dict[str, Any], fixed: dict[str, Any]) -> dict[str, list[Any]]:
    for key, values in lists.items():
        where = f"repeat.{key}"
        if key not in REPEATABLE:
            raise ConfigError(
                f"{where}: only {' and '.join(REPEATABLE)} repeat{did_you_mean(key, REPEATABLE)}"
            )
        if key in fixed:
            raise ConfigError(f"{where}: also set under fixed; keep one of them")
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{where}: must be a list of values")
        for position, value in enumerate(cast(list[Any], values)):
            check_value(key, value, where=f"{where}[{position}]")
    return lists


SettingsT = TypeVar("SettingsT", bound=Config)


def _settings(model: type[SettingsT], blocks: dict[str, Any], name: str) -> SettingsT:
    values = blocks.get(name, {})
    for key in values:
        if key not in model.model_fields:
            raise ConfigError(f"{name}.{key}: no such key{did_you_mean(key, model.model_fields)}")
    try:
        return model.model_validate(values, strict=True)
    except ValidationError as error:
        raise ConfigError(explain(error, where=name)) from error


def _check_arms(space: SearchSpace) -> None:
    if space.arms and space.parameters:
        raise ConfigError(
            "arms: compared one by one, so there is nothing to search; remove parameters, or the arms"
        )
    if space.arms and space.search.num_trials is not None:
        raise ConfigError(
            "search.num_trials (--trials): arms are all compared, so there is no number to choose"
        )
    if space.repeat and not space.arms:
        raise ConfigError("repeat: repeats arms, and there are none")


def _check_objectives(space: SearchSpace) -> None:
    """Checks that trials measure what ranks them, and that what bounds them survives stopping early."""
    features, families = space.base("probe.features"), space.base("zero_shot.prompts")
    check_measured(
        space.objective,
        where="objective",
        features=features,
        families=families,
        metrics=OBJECTIVE_METRICS,
    )
    if space.also_minimise is not None:
        check_measured(
            space.also_minimise,
            where="also_minimise",
            features=features,
            families=families,
            metrics=LOWER_IS_BETTER,
            costs=COSTS,
        )
    if space.search.scheduler != "none" and SECONDS in (space.also_minimise, *space.constraints):
        raise ConfigError(
            f"search.scheduler: what {space.search.scheduler} stops early has no whole {SECONDS} to compare; "
            "use search.scheduler=none"
        )


def _check_seeds(space: SearchSpace) -> None:
    """Checks that nothing else decides which seeds an arm runs on."""
    if space.search.seeds == 1:
        return
    where = f"search.seeds={space.search.seeds}"
    if space.arms:
        raise ConfigError(f"{where}: repeats the best of a search; arms are all repeated: use repeat.seed")
    for row in space.baselines:
        if "seed" in row:
            raise ConfigError(f"{where}: baseline '{row['name']}' sets a seed of its own; leave it out")
