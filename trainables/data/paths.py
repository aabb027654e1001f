"""Checks the paths of a data set: only regular files inside its root may be opened."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from trainables.errors import DataError
from trainables.places import found

MAX_FILE_BYTES = 128 * 2**20


def open_root(root: Path | None, *, dataset: str) -> Path:
    """Returns the real path of a data set's folder, or raises DataError."""
    if root is None:
        raise DataError(
            f"data.root: not set, but data set '{dataset}' is read from a folder; "
            f"give the folder: --set data.root=FOLDER"
        )
    folder = found(root)
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(
            f"data.root: {root} {problem}; give the folder of '{dataset}': --set data.root=FOLDER"
        )
    return folder.resolve()


def confined(name: str, *, root: Path, max_bytes: int = MAX_FILE_BYTES) -> Path:
    """Returns the real path of a file named in a table. It must be a regular file inside `root`.

    `root` is a real path (`open_root`). Files outside `root` are never opened.
    """
    problem = _suspicious(name)
    if problem:
        raise ValueError(f"{name!r} {problem}; paths are relative to data.root and stay inside it")
    return regular_file(root / name, root=root, max_bytes=max_bytes)


def regular_file(path: Path, *, root: Path, max_bytes: int = MAX_FILE_BYTES) -> Path:
    """Returns `path` with links resolved; it must be a regular file inside `root` within the size limit."""
    real = os.path.realpath(path)  # as text: a table may have a million rows, and `Path` is slow
    if problem := _unreadable(real, os.fspath(root), max_bytes):
        raise ValueError(f"{path.relative_to(root).as_posix()!r} {problem}")
    return Path(real)


def _unreadable(real: str, root: str, max_bytes: int) -> str | None:
    if not real.startswith(os.path.join(root, "")) and real != root:
        return "is a link that leads out of data.root"
    try:
        status = os.stat(real)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not stat.S_ISREG(status.st_mode):  # opening a FIFO would block forever
        return "is not a regular file"
    if status.st_size > max_bytes:
        return f"has {status.st_size:,} bytes, the limit is {max_bytes:,}"
    return None


def _suspicious(name: str) -> str | None:
    if not name.strip():
        return "is empty"
    if "\0" in name:
        return "contains a NUL character"
    if "://" in name:
        return "is a URL"
    if name.startswith("~"):
        return "starts with '~'"
    if "\\" in name:
        return "contains a backslash"
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return "is absolute"
    if ".." in name.split("/"):
        return "holds '..'"
    return None
