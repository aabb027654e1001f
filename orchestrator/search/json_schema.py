"""The JSON schema of search-space files, for editors: completion and red lines while a recipe is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.search.constraints import LIMITS
from orchestrator.search.metric_keys import SYSTEMS
from orchestrator.search.parameters import FAMILY
from orchestrator.search.space import EvaluationSettings, SearchSettings
from orchestrator.search.space_file import REPEATABLE
from trainables.config import TrialConfig
from trainables.config.fields import FIELDS
from trainables.scoring.metric_names import (
    COSTS,
    DEFAULT_OBJECTIVE,
    LOWER_IS_BETTER,
    METRICS,
    OBJECTIVE_METRICS,
    metric_key,
)

SCHEMA_FILE = "search_space.schema.json"


def search_space_schema() -> dict[str, Any]:
    """Returns the schema (draft 2020-12). It admits more than `load_space`, which looks across fields."""
    fields = _field_schemas()
    either = {key: {"anyOf": [_ref(key), {"type": "array", "items": _ref(key)}]} for key in fields}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Search space",
        **_object(_block_schemas(fields)),
        "$defs": {
            **fields,
            "overrides": _object({key: _ref(key) for key in fields}),
            "row": {
                **_object({"name": {"type": "string"}} | {key: _ref(key) for key in fields}),
                "required": ["name"],
            },
            "condition": _object(either),
            "limit": {**_object({word: {"type": "number"} for word in LIMITS}), "minProperties": 1},
        },
    }


def _block_schemas(fields: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    parameters = {key: _parameter_schema(key, field) for key, field in fields.items()}
    repeats = {key: {"type": "array", "items": _ref(key), "minItems": 1} for key in REPEATABLE}
    rows = {"type": "array", "items": _ref("row")}
    return {
        "name": {"type": "string", "description": "None = the file's name."},
        "experiment": {"type": "string", "description": "In MLflow; none = the name."},
        "about": {"type": "string", "description": "One sentence."},
        "fixed": {**_ref("overrides"), "description": "Dotted fields that every trial shares."},
        "parameters": {**_object(parameters), "description": "What is searched."},
        "search": _settings_schema(SearchSettings),
        "objective": {
            "enum": _measured(OBJECTIVE_METRICS),
            "default": DEFAULT_OBJECTIVE,
            "description": "Ranks trials; higher is better.",
        },
        "also_minimise": {
            "enum": [*COSTS, *_measured(LOWER_IS_BETTER)],
            "description": "A second objective: rows on the Pareto front are marked, the first one ranks.",
        },
        "constraints": {
            **_object({key: _ref("limit") for key in (*COSTS, *_measured(METRICS))}),
            "description": "A trial that breaks one is infeasible: never the best.",
        },
        "baselines": {
            **rows,
            "description": "Always run; the frozen encoder is among them even if not listed.",
        },
        "arms": {**rows, "description": "Compared one by one, instead of a search."},
        "repeat": {
            **_object(repeats),
            "description": "Arms and baselines run with each combination of these.",
        },
        "evaluation": _settings_schema(EvaluationSettings),
    }


def _measured(metrics: Sequence[str]) -> list[str]:
    return [metric_key("val", system, metric) for system in SYSTEMS for metric in metrics]


def _field_schemas() -> dict[str, dict[str, Any]]:
    """Returns dotted field → schema of its value."""
    whole = TrialConfig.model_json_schema()
    schemas: dict[str, dict[str, Any]] = {}
    for key in FIELDS:
        place = whole
        for part in key.split("."):
            place = place["properties"][part]
            place = whole["$defs"][place["$ref"].rpartition("/")[2]] if "$ref" in place else place
        schemas[key] = {name: value for name, value in place.items() if name != "title"}
    return schemas


def _parameter_schema(key: str, field: dict[str, Any]) -> dict[str, Any]:
    types = {option.get("type") for option in field.get("anyOf", [field])}
    properties: dict[str, Any] = {"choice": {"type": "array", "items": _ref(key), "minItems": 1}}
    if types & {"number", "integer"}:
        properties["int"] = _ends("integer")
    if "number" in types:
        properties["float"] = _ends("number")
    if key == "lora.target_modules":
        properties["choice"] = {"anyOf": [properties["choice"], {"const": FAMILY}]}
    if key == "optim.learning_rate":
        properties["float"] = {"anyOf": [properties["float"], {"const": FAMILY}]}
    exactly_one = [{"required": [kind]} for kind in properties]
    if len(properties) > 1:
        properties["log"] = {
            "type": "boolean",
            "description": "Equally likely per factor, not per difference.",
        }
    properties["when"] = {
        **_ref("condition"),
        "description": "Counts only where these fields have these values.",
    }
    return {**_object(properties), "oneOf": exactly_one, "description": field.get("description", key)}


def _settings_schema(model: type[SearchSettings] | type[EvaluationSettings]) -> dict[str, Any]:
    return {name: value for name, value in model.model_json_schema().items() if name != "title"}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _ends(json_type: str) -> dict[str, Any]:
    return {"type": "array", "items": {"type": json_type}, "minItems": 2, "maxItems": 2}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}
