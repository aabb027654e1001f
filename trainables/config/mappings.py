"""Settings whose values are mappings. They become tuples of pairs, which cannot change and can be hashed."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast, get_args

from pydantic import BeforeValidator, WithJsonSchema


def _as_pairs(value: Any) -> Any:
    """Returns a mapping, or a list of pairs, as a tuple of pairs, which can be hashed."""
    if isinstance(value, dict):
        return tuple((str(key), of) for key, of in cast("dict[Any, Any]", value).items())
    if isinstance(value, (list, tuple)):
        return tuple(tuple(pair) for pair in cast("list[list[Any]]", value))
    raise ValueError(f"{value!r} must be a mapping, such as {{covid-19: COVID-19}}")


Pairs = Annotated[
    tuple[tuple[str, str], ...],
    BeforeValidator(_as_pairs),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}}),
]
"""A mapping from text to text, as a tuple of pairs."""


UncertainLabels = Literal["ignore", "ones", "zeros"]


def _as_policies(value: Any) -> Any:
    """Returns what uncertain labels are read as: one policy, or pairs of finding and policy."""
    policies = get_args(UncertainLabels)
    if isinstance(value, str):
        if value not in policies:
            raise ValueError(f"{value!r} must be one of {', '.join(policies)}, or a mapping by finding")
        return value
    pairs = _as_pairs(value)
    for name, policy in pairs:
        if policy not in policies:
            raise ValueError(f"{name}: {policy!r} must be one of {', '.join(policies)}")
    return pairs


Uncertain = Annotated[
    UncertainLabels | tuple[tuple[str, UncertainLabels], ...],
    BeforeValidator(_as_policies),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(get_args(UncertainLabels))},
                {"type": "object", "additionalProperties": {"enum": list(get_args(UncertainLabels))}},
            ]
        }
    ),
]
"""What uncertain labels are read as: one policy for all findings, or one for each, as a tuple of pairs."""
