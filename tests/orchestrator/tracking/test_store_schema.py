"""What is read of a store's schema, without MLflow and without a change."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from old_store import MLFLOW_2_9, write_revision

from orchestrator.cli.machine_checks import Check, check_mlflow
from orchestrator.storage.paths import mlflow_uri
from orchestrator.tracking.store_schema import (
    UNVERSIONED,
    copy_name,
    installed_revisions,
    read_database,
    read_schema,
    sqlite_file,
)


def schema_check() -> Check | None:
    return next((check for check in check_mlflow() if check.name == "mlflow schema"), None)


def own_store(home: Path, revision: str | None) -> Path:
    home.mkdir()
    return write_revision(home / "mlflow.db", revision)


def newest() -> str:
    head, _ = installed_revisions()
    assert head is not None
    return head


def test_the_installed_mlflow_has_one_newest_revision_and_knows_that_of_2_9():
    head, known = installed_revisions()
    assert head in known
    assert MLFLOW_2_9 in known
    assert head != MLFLOW_2_9


@pytest.mark.slow
def test_the_newest_revision_is_that_of_mlflow_itself():
    code = "from mlflow.store.db.utils import _get_latest_schema_revision as read; print(read())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split()[-1] == newest()


@pytest.mark.parametrize(
    ("revision", "kind"),
    [(MLFLOW_2_9, "older"), (None, "older"), ("f00dfeedbeef", "newer"), ("newest", "current")],
)
def test_an_old_a_new_and_a_current_store_are_told_apart(home: Path, revision: str | None, kind: str):
    file = own_store(home, newest() if revision == "newest" else revision)
    before = file.read_bytes()
    schema = read_schema(mlflow_uri())
    assert (schema.kind, schema.file, schema.is_own) == (kind, file, True)
    assert schema.is_usable == (kind != "newer")
    assert file.read_bytes() == before
    assert sorted(home.iterdir()) == [file]


def test_a_store_that_is_not_there_yet_is_new_and_no_home_is_made(home: Path):
    assert read_schema(mlflow_uri()).kind == "new"
    assert read_schema(mlflow_uri()).sentence == ""
    assert not home.exists()


def test_doctor_says_that_an_older_store_will_be_copied_and_migrated(home: Path):
    file = own_store(home, MLFLOW_2_9)
    check = schema_check()
    assert check is not None
    assert check.is_ok, "a sweep can run"
    assert MLFLOW_2_9 in check.found
    assert f"copies the file to {copy_name(file, MLFLOW_2_9).name}, then migrates it" in check.note


def test_doctor_has_no_note_for_a_current_store_and_no_line_without_a_store(home: Path):
    assert schema_check() is None
    own_store(home, newest())
    assert schema_check() == Check("mlflow schema", "up to date")


def test_a_store_of_a_newer_mlflow_is_left_alone_and_named(home: Path):
    own_store(home, "f00dfeedbeef")
    said = read_schema(mlflow_uri()).sentence
    assert "A newer MLflow made it" in said
    assert "sync NAME" in said


def test_a_damaged_file_is_called_unreadable(home: Path):
    home.mkdir()
    (home / "mlflow.db").write_bytes(b"this is no database" * 100)
    schema = read_schema(mlflow_uri())
    assert (schema.kind, schema.is_usable) == ("unreadable", False)
    assert "not a database" in schema.sentence


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_file_of_another_user_is_not_migrated_and_the_command_is_given(home: Path, tmp_path: Path):
    file = write_revision(tmp_path / "lab.db", MLFLOW_2_9)
    os.chown(file, 12345, -1)
    schema = read_schema(f"sqlite:///{file}")
    assert (schema.kind, schema.is_own, schema.is_usable) == ("older", False, False)
    assert f'-m mlflow db upgrade "sqlite:///{file}"' in schema.sentence
    moved = shutil.copy(file, home.with_suffix(".db"))
    assert read_schema(f"sqlite:///{moved}").is_own


def test_a_database_server_that_does_not_answer_is_not_usable_and_its_password_is_not_shown():
    schema = read_schema("postgresql://lab:hunter2@127.0.0.1:1/mlflow")
    assert (schema.kind, schema.is_own, schema.is_usable) == ("unreadable", False, False)
    assert "hunter2" not in schema.sentence
    assert "the database in MLFLOW_TRACKING_URI" in schema.sentence


def test_a_tracking_server_keeps_its_schema_to_itself():
    assert read_schema("http://127.0.0.1:1").kind == "server"


@pytest.mark.parametrize("revision", [MLFLOW_2_9, None])
def test_other_databases_are_read_in_the_same_way(tmp_path: Path, revision: str | None):
    file = write_revision(tmp_path / "other.db", revision)
    assert read_database(f"sqlite:///{file}") == (revision or UNVERSIONED)
    assert read_database("sqlite://") is None


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite+pysqlite:////a/b.db?timeout=3", "/a/b.db"),
        ("sqlite:///:memory:", None),
        ("sqlite://", None),
        ("postgresql://h/a", None),
    ],
)
def test_the_file_of_an_address(uri: str, path: str | None):
    assert sqlite_file(uri) == (Path(path) if path else None)


def test_a_relative_file_is_below_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert sqlite_file("sqlite:///b.db") == tmp_path / "b.db"
