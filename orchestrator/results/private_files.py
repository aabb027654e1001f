"""Writes files that only their user may read, and replaces no file of somebody else."""

from __future__ import annotations

from pathlib import Path

from trainables.artifacts import write_privately
from trainables.errors import ConfigError


def check_replaceable(path: Path, *, option: str, begins_with: str) -> None:
    """Checks that a file can be written, before the work for it is done.

    Args:
        path: the file.
        option: option of the command line that named the file.
        begins_with: an existing file is replaced only if it begins with this text.

    Raises:
        ConfigError: there is no such folder, or another file is there.
    """
    if not path.parent.is_dir():
        raise ConfigError(
            f"{option} {path}: there is no folder {path.parent}; make it: mkdir -p {path.parent}"
        )
    if path.exists() and not _begins_with(path, begins_with):
        raise ConfigError(
            f"{option} {path}: this file exists and was not written by {option}, so it is not replaced; "
            "choose another name"
        )


def write_private(path: Path, text: str, *, option: str, begins_with: str) -> None:
    """Writes a file with mode 0600, atomically. Arguments and errors are those of `check_replaceable`."""
    assert text.startswith(begins_with), "the file would not be replaced the next time"
    check_replaceable(path, option=option, begins_with=begins_with)
    try:
        write_privately(path, text)
    except OSError as error:
        raise ConfigError(
            f"{option} {path}: this file cannot be written ({error.strerror or error})"
        ) from error


def _begins_with(path: Path, text: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(text.encode())) == text.encode()
