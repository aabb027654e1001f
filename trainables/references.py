"""References to functions by name, as the registries hold them, so that a registry imports nothing."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def resolve(reference: str) -> Callable[..., Any]:
    """Imports and returns the function named `module:function`."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
