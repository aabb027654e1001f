"""The JSON schema of search-space files. Editors use the schema to complete and check these files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.search.metric_keys import SYSTEMS
from orchestrator.search.overrides import REPEATABLE
from orchestrator.search.parameters import FAMILY
from orchestrator.search.space import SearchSpace
from trainables.config import TrialConfig
from trainables.config.fields import FIELDS
from trainables.scoring.metric_names import COSTS, LOWER_IS_BETTER, METRICS, OBJECTIVE_METRICS, metric_key

SCHEMA_FILE = "search_space.schema.json"


def search_space_schema() -> dict[str, Any]:
    """Returns the schema (draft 2020-12) of `SearchSpace`, with dotted fields and metrics listed by name.

    `load_space` checks more: for example, it compares fields with each other.
    """
    schema, fields = SearchSpace.model_json_schema(), _field_schemas()
    values = {key: _ref(key) for key in fields}
    either = {key: {"anyOf": [_ref(key), {"type": "array", "items": _ref(key)}]} for key in fields}
    rows = {"type": "array", "items": _ref("row")}
    schema["$defs"] |= fields | {
        "overrides": _object(values),
        "row": {**_object({"name": {"type": "string"}} | values), "required": ["name"]},
        "condition": _object(either),
        "Limit": {**schema["$defs"]["Limit"], "minProperties": 1},
    }
    written_out: dict[str, Any] = {
        "fixed": _ref("overrides"),
        "parameters": _object({key: _parameter_schema(key, field) for key, field in fields.items()}),
        "objective": {"enum": _measured(OBJECTIVE_METRICS)},
        "also_minimise": {"enum": [*COSTS, *_measured(LOWER_IS_BETTER)]},
        "constraints": _object({key: _ref("Limit") for key in (*COSTS, *_measured(METRICS))}),
        "baselines": rows,
        "arms": rows,
        "repeat": _object({key: {"type": "array", "items": _ref(key), "minItems": 1} for key in REPEATABLE}),
    }
    for name, block in written_out.items():
        known = schema["properties"][name]
        schema["properties"][name] = block | {key: known[key] for key in ("default", "description")}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _measured(metrics: Sequence[str]) -> list[str]:
    return [metric_key("val", system, metric) for system in SYSTEMS for metric in metrics]


def _field_schemas() -> dict[str, dict[str, Any]]:
    """Returns the schema of the value of each field, by dotted name."""
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
        properties["log"] = {"type": "boolean", "description": "Whether to draw uniformly on a log scale."}
    properties["when"] = {
        **_ref("condition"),
        "description": "The parameter varies only if these fields have these values.",
    }
    return {**_object(properties), "oneOf": exactly_one, "description": field.get("description", key)}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _ends(json_type: str) -> dict[str, Any]:
    return {"type": "array", "items": {"type": json_type}, "minItems": 2, "maxItems": 2}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}
