"""Paths of a data set: whatever a table or a link says, only regular files inside its root are opened."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path, PurePosixPath

from trainables.errors import DataError

MAX_FILE_BYTES = 128 * 2**20


def open_root(root: Path | None, *, dataset: str) -> Path:
    """Returns the real path of a data set's folder.

    Raises:
        DataError: not set, missing, or not a folder.
    """
    if root is None:
        raise DataError(
            f"data.root: not set, and data set '{dataset}' is read from a folder; "
            f"say where it is: --set data.root=FOLDER"
        )
    folder = root.expanduser()
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"data.root: {root} {problem}; say where '{dataset}' is: --set data.root=FOLDER")
    return folder.resolve()


def confined(name: str, *, root: Path) -> Path:
    """Returns the real path of a file named in a table, which must be a regular file inside `root`.

    Args:
        name: relative to `root`, with forward slashes.
        root: a real path (`open_root`).

    Raises:
        ValueError: says what is wrong with the name. Nothing outside `root` has been opened.
    """
    problem = _suspicious(name)
    if problem:
        raise ValueError(f"{name!r} {problem}; paths are relative to data.root and stay inside it")
    return regular_file(root / name, root=root)


def regular_file(path: Path, *, root: Path) -> Path:
    """Returns `path` with links resolved, if that is a regular file of a sane size inside `root`.

    Raises:
        ValueError: says what is wrong with it.
    """
    real = Path(os.path.realpath(path))
    shown = path.relative_to(root).as_posix()
    if not real.is_relative_to(root):
        raise ValueError(f"{shown!r} is a link that leads out of data.root")
    try:
        status = real.stat()
    except OSError as error:
        raise ValueError(f"{shown!r} cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for ever
        raise ValueError(f"{shown!r} is not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise ValueError(f"{shown!r} has {status.st_size:,} bytes, the limit is {MAX_FILE_BYTES:,}")
    return real


def _suspicious(name: str) -> str | None:
    if not name.strip():
        return "is empty"
    if "\0" in name:
        return "holds a NUL character"
    if "://" in name:
        return "is a URL"
    if name.startswith("~"):
        return "starts with '~'"
    if "\\" in name:
        return "holds a backslash"
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return "is absolute"
    if ".." in PurePosixPath(name).parts:
        return "holds '..'"
    return None
