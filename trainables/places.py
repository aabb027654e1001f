"""The paths of data and weights that were copied to this machine from another one."""

from __future__ import annotations

from pathlib import Path

_BROUGHT: dict[str, Path] = {}


def bring(name: str, folder: Path) -> None:
    """Records that `name`, a folder or file of another machine, was copied to `folder` on this machine."""
    _BROUGHT[name] = folder


def found(name: str | Path) -> Path:
    """Returns the path on this machine of a folder or file in a configuration: its copy, or the path itself.

    The configuration is not changed, because the names in it are part of the identity of an adapter.
    """
    return _BROUGHT.get(str(name)) or Path(name).expanduser()
