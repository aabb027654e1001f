"""Compares the database schema of an MLflow store with that of the installed MLflow. Changes nothing.

MLflow migrates an older database without asking, and then an older MLflow cannot open the database any more.
So this module reads the revision without MLflow.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from orchestrator.storage.paths import PROJECT, own_mlflow_file
from trainables.shell import command, interpreter

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
UNVERSIONED = "none"
"""The revision of a database that has MLflow's tables but no revision, such as one of MLflow before 1.0."""
CONNECT_SECONDS = 15.0
BUSY_SECONDS = 5.0
_VERSIONS = "select version_num from alembic_version"

Kind = Literal["server", "new", "current", "older", "newer", "unreadable"]


@dataclass(frozen=True)
class StoreSchema:
    """What is known of the schema of a store.

    Attributes:
        kind: `server`: not a database, so its schema is not visible; `new`: no tables yet; `current`,
            `older` or `newer` than the schema of the installed MLflow; `unreadable`: see `trouble`.
        revision: Alembic's revision of the database; None: no database or no tables.
        file: the SQLite file; None for other databases and for servers.
        is_own: this user may migrate the file.
        trouble: why the revision could not be read.
    """

    kind: Kind
    revision: str | None = None
    file: Path | None = None
    is_own: bool = False
    trouble: str = ""

    @property
    def is_usable(self) -> bool:
        """Returns whether a sweep can be written to the store, after a migration if it is our own."""
        return self.kind in ("server", "new", "current") or (self.kind == "older" and self.is_own)

    @property
    def place(self) -> str:
        """The store in words, without a password."""
        return str(self.file) if self.file else "the database in MLFLOW_TRACKING_URI"

    @property
    def sentence(self) -> str:
        """What a user must know about the schema; empty if there is nothing to say."""
        wait = "Until then sweeps run, but they are not written to MLflow. Afterwards type: " + command(
            "sync NAME"
        )
        match self.kind:
            case "older" if self.is_own and self.file and self.revision:
                kept = copy_name(self.file, self.revision)
                return (
                    f"{self.place} has the schema of an older MLflow ({self.revision}). The next sweep first "
                    f"copies the file to {kept.name}, then migrates it. After that, an older MLflow can open "
                    "only the copy"
                )
            case "older":
                return (
                    f"{self.place} has the schema of an older MLflow ({self.revision}), and is not migrated "
                    f"here, because others may use it. Back it up, then type: {self._upgrade_command}. {wait}"
                )
            case "newer":
                return (
                    f"{self.place} has the schema {self.revision}, which MLflow "
                    f"{importlib.metadata.version('mlflow')} does not know. A newer MLflow made it. Install "
                    f"that version, or set MLFLOW_TRACKING_URI to another store. {wait}"
                )
            case "unreadable":
                return (
                    f"{self.place} cannot be read ({self.trouble}). Repair it, or set MLFLOW_TRACKING_URI to "
                    f"another store. {wait}"
                )
            case _:
                return ""

    @property
    def _upgrade_command(self) -> str:
        uri = f"sqlite:///{self.file}" if self.file else "$MLFLOW_TRACKING_URI"  # may have a password
        return f'{interpreter()} -m mlflow db upgrade "{uri}"'


def read_schema(uri: str) -> StoreSchema:
    """Returns the state of a store's schema. Waits at most 15 seconds for a database server."""
    if database_of(uri) not in DATABASES:
        return StoreSchema("server")
    file = sqlite_file(uri)
    is_own = file is not None and file.exists() and is_ours(file)
    try:
        revision = _read_file(file) if file else _read_apart(uri)
    except (OSError, ValueError, sqlite3.Error, subprocess.SubprocessError) as error:
        return StoreSchema("unreadable", None, file, is_own, " ".join(str(error).split())[:200])
    head, known = installed_revisions()
    if revision is None:
        kind = "new"
    elif revision == head or head is None:  # without a known head, MLflow itself decides
        kind = "current"
    else:
        kind = "older" if revision in known or revision == UNVERSIONED else "newer"
    return StoreSchema(kind, revision, file, is_own)


def database_of(uri: str) -> str:
    """Returns the kind of database of a URI, such as `postgresql`, or the scheme of another URI."""
    return uri.partition(":")[0].partition("+")[0].lower()


def sqlite_file(uri: str) -> Path | None:
    """Returns the absolute path of the file of a SQLite URI; None for another URI or a database in memory."""
    if database_of(uri) != "sqlite":
        return None
    path = uri.partition(":///")[2].partition("?")[0]
    return Path(path).absolute() if path and path != ":memory:" else None


def is_ours(file: Path) -> bool:
    """Returns whether a SQLite file is the one in the home folder, or belongs to this user."""
    return file == own_mlflow_file() or file.stat().st_uid == os.geteuid()


def copy_name(file: Path, revision: str) -> Path:
    """Returns the path of the copy that is kept before a migration, with today's date and the revision."""
    return file.with_name(f"{file.stem}-{date.today():%Y%m%d}-{revision}{file.suffix}")


@cache
def installed_revisions() -> tuple[str | None, frozenset[str]]:
    """Returns the newest schema revision of the installed MLflow, and all that it knows.

    The newest is None if the files of MLflow are not as expected. The files are read, not imported: an
    import of MLflow takes seconds.
    """
    spec = importlib.util.find_spec("mlflow")
    found: dict[str, set[str]] = {}
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in (Path(folder) / "store" / "db_migrations" / "versions").glob("*.py"):
            text = path.read_text(encoding="utf-8")
            if name := re.search(r"^revision\s*(?::[^=]+)?=\s*['\"](\w+)['\"]", text, re.MULTILINE):
                below = re.search(r"^down_revision\s*(?::[^=]+)?=(.*)$", text, re.MULTILINE)
                found[name[1]] = set(re.findall(r"['\"](\w+)['\"]", below[1] if below else ""))
    heads = set(found).difference(*found.values())
    return (heads.pop() if len(heads) == 1 else None), frozenset(found)


def _read_file(file: Path) -> str | None:
    """Returns the revision of a SQLite file, or None if it has no tables of MLflow."""
    if not file.exists():
        return None
    address = f"{file.as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS)) as database:
        tables = {name for (name,) in database.execute("select name from sqlite_master")}
        return _revision(tables, lambda: database.execute(_VERSIONS).fetchall())


def _read_apart(uri: str) -> str | None:
    """Returns the revision of another database, read in a process of its own: a driver may hang."""
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.tracking.store_schema"],
        input=uri,  # not an argument: the URI may have a password
        capture_output=True,
        text=True,
        timeout=CONNECT_SECONDS,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(last.replace(urlsplit(uri).password or uri, "***"))
    return json.loads(done.stdout)


def _revision(tables: set[str], fetch: Callable[[], list[Any]]) -> str | None:
    """Returns the first row of the table `alembic_version`, `UNVERSIONED` without one, or None."""
    rows = fetch() if "alembic_version" in tables else []
    if rows:
        return str(rows[0][0])
    return UNVERSIONED if "experiments" in tables else None


def read_database(uri: str) -> str | None:
    """Returns the revision of a database through SQLAlchemy, or None if it has no tables of MLflow."""
    import sqlalchemy  # as in MLflow; loaded only if the store is a database

    engine = sqlalchemy.create_engine(uri)
    with engine.connect() as connection:
        tables = set(sqlalchemy.inspect(connection).get_table_names())
        statement = sqlalchemy.text(_VERSIONS)
        return _revision(tables, lambda: list(connection.execute(statement)))


if __name__ == "__main__":
    print(json.dumps(read_database(sys.stdin.read())))
