"""Checks `cluster.yaml`, which `ray up` reads, against Ray's schema and against our own rules."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from orchestrator.cluster.finding import Finding
from orchestrator.cluster.ray_internals import cluster_file_schema, complete_cluster_file
from trainables.config.fields import did_you_mean
from trainables.errors import ConfigError
from trainables.plain_yaml import read_yaml

# Imports inside functions: Ray takes seconds to load, and reads its environment at that moment.

CLUSTER_FILE = "cluster.yaml"


@dataclass(frozen=True)
class ClusterCheck:
    """The result of a check: problems that the user must solve, and notes that the user must judge."""

    config: Mapping[str, Any]
    problems: tuple[Finding, ...]
    notes: tuple[Finding, ...]


def check_cluster(path: Path) -> ClusterCheck:
    """Checks a cluster file for all problems, without contacting a cloud."""
    from orchestrator.cluster.cluster_rules import PreparedFile, notes, problems

    config = read_cluster(path)
    found = tuple(schema_problems(config))
    if found:  # the rules rely on the types in the schema
        return ClusterCheck(config, found, ())
    prepared, refused = prepare(config)
    if refused:
        return ClusterCheck(config, refused, ())
    file = PreparedFile(prepared, path.parent)
    found = tuple(problems(file))
    if not config.get("idle_timeout_minutes"):  # Ray's default hides a missing value
        mend = "write 10; otherwise idle workers cost money forever"
        found = (Finding("idle_timeout_minutes", "missing", mend), *found)
    return ClusterCheck(prepared, found, () if found else tuple(notes(file)))


def usable_cluster(path: Path) -> Mapping[str, Any]:
    """Checks a cluster file, and returns its values with Ray's defaults.

    Raises:
        ConfigError: the file has problems. The message lists all of them.
    """
    check = check_cluster(path)
    if check.problems:
        lines = "\n".join(f"  {problem}" for problem in check.problems)
        raise ConfigError(f"{path}: solve these problems first:\n{lines}")
    return check.config


def read_cluster(path: Path) -> dict[str, Any]:
    """Returns the values of a cluster file."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; name another file, or change to the project's folder")
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: this file has no fields; start from {CLUSTER_FILE} of the project")
    return cast("dict[str, Any]", values)


def schema_problems(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Yields all violations of Ray's schema. `ray up` stops at the first one."""
    import jsonschema

    errors = jsonschema.Draft7Validator(cluster_file_schema()).iter_errors(config)
    for error in sorted(errors, key=lambda error: [str(part) for part in error.absolute_path]):
        where = ".".join(str(part) for part in error.absolute_path)
        if error.validator == "additionalProperties":
            known = list(error.schema.get("properties", {}))
            for key in sorted(set(error.instance) - set(known)):
                near = did_you_mean(key, known).removeprefix("; ")
                hint = near or f"known fields: {', '.join(sorted(known))}"
                yield Finding(_join(where, key), "no such field in Ray's schema", hint)
        elif error.validator == "required":
            for key in error.validator_value:
                if key not in error.instance:
                    meaning = error.schema.get("properties", {}).get(key, {}).get("description", "")
                    yield Finding(_join(where, key), "missing", f"set it. {meaning}".strip())
        elif error.validator == "type":
            yield Finding(where, f"{error.instance!r}", f"must be of type {error.validator_value}")
        else:
            yield Finding(where, f"{error.instance!r}", error.message)


def prepare(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[Finding, ...]]:
    """Completes a file in the way of `ray up`. Returns Ray's reason if Ray refuses the file."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return complete_cluster_file(config), ()
    except Exception as error:  # Ray raises click's errors, NotImplementedError, KeyError, …
        reason = str(error) or said.getvalue().strip() or type(error).__name__
        kind = config["provider"]["type"]
        return config, (Finding(f"provider.type={kind}", "Ray refuses this file", reason),)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
