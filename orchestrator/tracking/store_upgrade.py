"""Prepares an MLflow store for use: keeps a copy of an older SQLite file, then migrates the file.

One process at a time prepares a SQLite file. MLflow itself does not ensure this: two processes that create or
migrate the same file can damage it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from orchestrator.storage.paths import home
from orchestrator.tracking.store_schema import (
    DATABASES,
    StoreSchema,
    copy_name,
    database_of,
    read_schema,
    sqlite_file,
)
from trainables.errors import ClusterError


@contextmanager
def prepared(uri: str) -> Generator[str]:
    """Migrates an older file of this user, then lets only this process open the store and create tables.

    Yields:
        A sentence for the user, if the file was migrated; else an empty text.

    Raises:
        ClusterError: the store needs a migration that this program must not make, or the migration failed.
    """
    if database_of(uri) not in DATABASES:
        yield ""
        return
    with _alone(sqlite_file(uri) or home() / "mlflow-database"):
        schema = read_schema(uri)
        if not schema.is_usable:
            raise ClusterError(schema.sentence)
        yield migrate(schema) if schema.kind == "older" else ""


def migrate(schema: StoreSchema) -> str:
    """Keeps a copy of a SQLite file, migrates the file, and returns a sentence for the user.

    If the migration fails or is interrupted, the content of the copy is put back.

    Raises:
        ClusterError: the copy or the migration failed; the file has its old content.
    """
    assert schema.file is not None
    assert schema.revision is not None
    kept = keep_copy(schema.file, schema.revision)
    try:
        _run_mlflow_upgrade(schema.file)
    except BaseException:
        _copy(kept, schema.file)
        kept.unlink()
        raise
    return (
        f"{schema.file} had the schema of an older MLflow, and was migrated. An older MLflow can open the "
        f"copy {kept}"
    )


def keep_copy(file: Path, revision: str) -> Path:
    """Copies a SQLite file beside itself, even while it is in use, and returns the path of the copy.

    Raises:
        ClusterError: the disk is full or not writable.
    """
    descriptor, aside = tempfile.mkstemp(dir=file.parent, prefix=f".{file.stem}-")
    os.close(descriptor)
    try:
        _copy(file, Path(aside))
        os.chmod(aside, file.stat().st_mode & 0o777)
        first = copy_name(file, revision)
        target, number = first, 1
        while True:
            with suppress(FileExistsError):
                os.link(aside, target)  # never replaces an earlier copy
                return target
            number += 1
            target = first.with_stem(f"{first.stem}-{number}")
    except (OSError, sqlite3.Error) as error:
        raise ClusterError(f"{file}: not migrated, because no copy could be made ({error})") from error
    finally:
        os.unlink(aside)


def _copy(source: Path, target: Path) -> None:
    """Copies the content of one SQLite file into another, as one transaction."""
    with (
        closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as old,
        closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


def _run_mlflow_upgrade(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{file}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=home(),
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ClusterError(f"{file}: the migration to the schema of this MLflow failed ({last[:200]})")


@contextmanager
def _alone(file: Path) -> Generator[None]:
    """Holds a lock beside a file. The kernel releases the lock when the process ends."""
    home()  # if the file is in the home folder, creates this folder with its own mode
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file.with_name(f".{file.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ClusterError(f"{file}: its folder is not writable ({error.strerror})") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
