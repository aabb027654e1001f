"""What systems are called: `zero_shot_unseen`, `probe_joint`, `few_shot_8_joint#3` and their like."""

from __future__ import annotations

_FEW_SHOT = "few_shot_"
_CONTROL = "control_"


def is_control(system: str) -> bool:
    """Says whether a system is a control, which sees no encoder."""
    return system.startswith(_CONTROL)


def is_few_shot(system: str) -> bool:
    """Says whether a system learnt from a few labels of each class."""
    return system.startswith(_FEW_SHOT)


def few_shot_name(num_shots: int, features: str) -> str:
    """Returns `few_shot_8_joint`."""
    return f"{_FEW_SHOT}{num_shots}_{features}"


def split_few_shot(system: str) -> tuple[int, str]:
    """Returns the number of shots and the features of a few-shot system."""
    num_shots, _, features = system.removeprefix(_FEW_SHOT).partition("_")
    return int(num_shots), features


def draw_name(system: str, draw: int) -> str:
    """Returns what one of several draws of a system is called: `few_shot_8_joint#3`."""
    return f"{system}#{draw}"


def split_draw(name: str) -> tuple[str, int | None]:
    """Returns the system and the draw of a name; None where the system is not drawn."""
    system, mark, draw = name.partition("#")
    return system, int(draw) if mark else None
