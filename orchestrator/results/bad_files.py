"""Writes the list of images that cannot be decoded, in the form that `data.exclude` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trainables.artifacts import write_privately
from trainables.errors import ConfigError

HEADER = "# images that cannot be used, written by `data check --write-bad`"


def check_bad_file(path: Path) -> None:
    """Checks that the list can be written to a path, before any image is decoded.

    Raises:
        ConfigError: there is no such folder, or another file is there, which is not replaced.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"--write-bad {path}: there is no folder {path.parent}; make it first")
    if path.exists() and not _lines(path)[:1] == [HEADER]:
        raise ConfigError(
            f"--write-bad {path}: this file exists and is not a list that `data check` wrote, so it is not "
            "replaced; choose another name"
        )


def write_bad_file(path: Path, reasons: Mapping[str, str]) -> int:
    """Adds images to the list, each with its reason, and returns how many were new.

    A listed image stays listed, because `data.exclude` may name this file: then the image was not read.

    Args:
        path: file of the list.
        reasons: path of the image relative to `data.root` → why it cannot be used.
    """
    check_bad_file(path)
    lines = _lines(path) if path.exists() else [HEADER]
    new = [name for name in reasons if name not in lines]
    for name in new:
        lines += [f"# {' '.join(reasons[name].split())}", name]
    try:
        write_privately(path, "\n".join([*lines, ""]))
    except OSError as error:
        raise ConfigError(f"--write-bad {path}: cannot be written ({error.strerror or error})") from error
    return len(new)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
