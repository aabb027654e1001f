"""The science: what runs. Every trainable is a function of `(config, context)`; none knows Ray or MLflow."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

TRAINABLES: dict[str, str] = {
    "adapt": "trainables.adapt:adapt",
    "finetune": "trainables.finetune:finetune",
    "embed": "trainables.embed:embed",
    "probe": "trainables.probe:probe",
    "zero_shot": "trainables.zero_shot:zero_shot",
    "caption": "trainables.caption:caption",
    "baseline": "trainables.baseline:baseline",
    "evaluate": "trainables.evaluate:evaluate",
}


def resolve(reference: str) -> Callable[..., Any]:
    """Returns the function named `module:function`, imported now and not before."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
