"""The one way anything is written: named by a pure function of its inputs, aside, manifest last, renamed."""

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
    """Returns 16 hex digits that are equal for equal JSON-like values, whatever the order of their keys."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):  # a config model
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"no canonical form of {type(value).__name__}: fingerprint plain values only")


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(folder: Path) -> bool:
    """Says whether a folder was finished: its manifest is written last."""
    return (folder / MANIFEST).is_file()


def build_once(folder: Path, build: Callable[[Path], dict[str, Any] | None]) -> Path:
    """Returns `folder`, made by `build` unless it is whole already; concurrent callers wait for the first.

    Args:
        folder: final place; its name should come from `fingerprint` of everything `build` depends on.
        build: writes into the (temporary) folder it is given; what it returns is stored as `about.json`.
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
    """Yields a folder that becomes `folder` in one step, with hashes, or leaves nothing behind."""
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
    """Renames a finished folder; one that is there steps aside, and is deleted once the new one stands."""
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
        DataError: names the first file that is missing or has changed.
    """
    for name, sha256 in hashes(folder).items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise DataError(
                f"{folder / name}: missing or changed since it was written; delete the folder and run again"
            )


def hashes(folder: Path) -> dict[str, str]:
    """Returns the files of a finished folder with their SHA-256, by its manifest."""
    if not is_whole(folder):
        raise DataError(f"{folder}: no {MANIFEST}, so it was never finished; delete the folder and run again")
    try:
        return json.loads((folder / MANIFEST).read_text())["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / MANIFEST}: damaged; delete the folder and run again") from error


def about(folder: Path) -> dict[str, Any]:
    """Returns what the builder of a finished folder said about it."""
    path = folder / ABOUT
    return json.loads(path.read_text()) if path.is_file() else {}


def write_atomically(path: Path, text: str) -> None:
    """Replaces a small text file in one step, on disk before the name changes."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds an exclusive lock on a file on this machine; the kernel drops it with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
