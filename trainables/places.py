"""Where the folders that a configuration names lie on this machine, if not at the place it says."""

from __future__ import annotations

from pathlib import Path

_BROUGHT: dict[str, Path] = {}


def bring(name: str, folder: Path) -> None:
    """Lets a folder or file of another machine be found where it was copied to on this one."""
    _BROUGHT[name] = folder


def found(name: str | Path) -> Path:
    """Returns where a folder or file lies that a configuration names: there, or where it was brought to.

    The configuration itself stays as it is: what it names is part of what identifies an adapter.
    """
    return _BROUGHT.get(str(name)) or Path(name).expanduser()
