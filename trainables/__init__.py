"""The code that trains and scores. A trainable is a function of `(config, context)`, and needs no Ray."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

TRAINABLES: dict[str, str] = {
    "adapt": "trainables.trials.adapt:adapt",
    "finetune": "trainables.trials.finetune:finetune",
    "embed": "trainables.trials.embed:embed",
    "probe": "trainables.trials.probe:probe",
    "zero_shot": "trainables.trials.zero_shot:zero_shot",
    "caption": "trainables.trials.caption:caption",
    "baseline": "trainables.trials.baseline:baseline",
    "evaluate": "trainables.trials.evaluate:evaluate",
}


def resolve(reference: str) -> Callable[..., Any]:
    """Imports and returns the function named `module:function`."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
