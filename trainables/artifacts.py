"""Writes artifacts atomically.

The name of an artifact is a fingerprint of its inputs. Its files are written to a temporary folder, with the
manifest last. Then the folder is renamed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trainables.errors import DataError

MANIFEST, ABOUT = "manifest.json", "about.json"


def fingerprint(*parts: Any) -> str:
    """Returns 16 hex digits that identify JSON-like values. The order of keys does not matter."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):  # a config model
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"no canonical form of {type(value).__name__}: only plain values have a fingerprint")


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(folder: Path) -> bool:
    """Returns whether a folder is finished: it has the manifest, which is written last."""
    return (folder / MANIFEST).is_file()


def build_once(folder: Path, build: Callable[[Path], dict[str, Any] | None]) -> Path:
    """Returns `folder`, after `build` has made it if it was missing. One caller builds; others wait.

    Args:
        folder: final path. Its name should come from the `fingerprint` of all inputs of `build`.
        build: writes into the temporary folder that it receives. Its result is stored as `about.json`.
    """
    if not is_whole(folder):
        with locked(_lock_of(folder)):
            _build(folder, build)
    return folder


def build_unless_busy(folder: Path, build: Callable[[Path], dict[str, Any] | None]) -> None:
    """Builds a folder as `build_once` does, but returns at once if another process is building it now."""
    if not is_whole(folder):
        with suppress(BlockingIOError), locked(_lock_of(folder), wait=False):
            _build(folder, build)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _build(folder: Path, build: Callable[[Path], dict[str, Any] | None]) -> None:
    if not is_whole(folder):
        with atomic_directory(folder) as aside:
            about = build(aside)
            if about:
                (aside / ABOUT).write_text(json.dumps(about, indent=1, sort_keys=True))


@contextmanager
def atomic_directory(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder, and renames it to `folder` with a manifest. Deletes it after an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield aside
        files = {
            p.relative_to(aside).as_posix(): file_sha256(p) for p in sorted(aside.rglob("*")) if p.is_file()
        }
        write_atomically(aside / MANIFEST, json.dumps({"files": files}, indent=1))
        put_in_place(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def put_in_place(aside: Path, folder: Path) -> None:
    """Renames a finished folder to `folder`, then deletes the old folder of this name, if there was one."""
    old = aside.with_name(f"{aside.name}.old")
    if folder.exists():
        folder.rename(old)
    try:
        aside.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def verify(folder: Path) -> None:
    """Compares every file of a finished folder with its manifest.

    Raises:
        DataError: a file is missing or has changed; the message names the first one.
    """
    for name, sha256 in hashes(folder).items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise DataError(
                f"{folder / name}: this file is missing or has changed; delete its folder and run again"
            )


def hashes(folder: Path) -> dict[str, str]:
    """Returns the files of a finished folder and their SHA-256, from its manifest."""
    if not is_whole(folder):
        raise DataError(f"{folder}: no {MANIFEST}, it was never finished; delete the folder and run again")
    try:
        return json.loads((folder / MANIFEST).read_text())["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / MANIFEST}: damaged; delete the folder and run again") from error


def about(folder: Path) -> dict[str, Any]:
    """Returns the values that the builder of a finished folder stored in `about.json`."""
    path = folder / ABOUT
    return json.loads(path.read_text()) if path.is_file() else {}


def write_atomically(path: Path, text: str) -> None:
    """Replaces a small text file atomically: flushes the new content to disk, then renames the file."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def write_privately(path: Path, text: str) -> None:
    """Replaces a text file atomically, with mode 0600: only its user can read it."""
    descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds an exclusive lock on a local file. The kernel releases the lock when the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
