"""Reads plain YAML: no tags, anchors or repeated keys, and limits on size and depth."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# PyYAML ships no types.

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from trainables.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_DEPTH = 8


def read_yaml(path: Path) -> Any:
    """Returns the only document of a YAML file.

    Raises:
        ConfigError: the file is missing, too large or not plain YAML. The message gives the line.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES:,} bytes; shorten the file")
    try:
        return parse_yaml(content.decode(), where=str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error


def parse_yaml(text: str, *, where: str) -> Any:
    """Returns the values of a YAML text. Every error message starts with `where`."""
    try:
        _refuse_what_is_no_value(text, where)
        return yaml.load(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = ", ".join(filter(None, (error.context, error.problem)))
        raise ConfigError(f"{where}, line {line}: {problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: this is not YAML ({str(error).splitlines()[0]})") from error


def _refuse_what_is_no_value(text: str, where: str) -> None:
    """Raises an error for tags, anchors and deep nesting, by a loop over events that builds no values."""
    depth = 0
    for event in yaml.parse(text, Loader=_PlainLoader):
        line = event.start_mark.line + 1
        if getattr(event, "anchor", None):
            raise ConfigError(f"{where}, line {line}: anchors and aliases are refused; write out the values")
        if getattr(event, "tag", None):
            raise ConfigError(f"{where}, line {line}: the tag {event.tag} is refused; use plain values")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{where}, line {line}: nested deeper than {MAX_DEPTH} levels")


class _PlainLoader(yaml.SafeLoader):
    """A loader with the scalars of YAML 1.2: 1e-3 is a number; yes, 010, 12:30 and 2026-01-01 are text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Returns a mapping. Raises an error if a key is not text or occurs twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(
                    problem="a key must be text; put quotes around it", problem_mark=key.start_mark
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' is set twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_PlainLoader.yaml_implicit_resolvers = {}  # removes the rules of YAML 1.1
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})$"), list("-+0123456789")
)
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?$|[-+]?[0-9]+[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)
