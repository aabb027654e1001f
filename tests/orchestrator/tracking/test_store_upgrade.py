"""A store of MLflow 2.9 becomes one of the installed MLflow: a copy first, nothing lost, once."""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ledger_history import finish_demo, place, start
from old_store import MLFLOW_2_9, RUN, make_old_store, revision_in, write_revision

from orchestrator.cli.app import execute
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.paths import mlflow_uri, sweep_folder
from orchestrator.tracking.mlflow_server import serve
from orchestrator.tracking.replay import Replayer, sync
from orchestrator.tracking.store_schema import copy_name, installed_revisions, read_schema
from orchestrator.tracking.store_upgrade import keep_copy, prepared
from trainables.errors import ClusterError


@pytest.fixture(scope="module")
def of_2_9(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_old_store(tmp_path_factory.mktemp("old") / "mlflow.db")


@pytest.fixture
def store(of_2_9: Path, home: Path) -> Path:
    """The home's own store, made by MLflow 2.9."""
    home.mkdir()
    return Path(shutil.copy(of_2_9, home / "mlflow.db"))


def sweep(name: str) -> Path:
    """The folder of a finished sweep that MLflow does not have yet."""
    folder = sweep_folder(name)
    with Ledger(folder) as ledger:
        start(ledger, name)
        place(ledger, "frozen")
        finish_demo(ledger, folder)
    return folder


def rows(file: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(file)) as database:
        return database.execute(statement).fetchall()


def content(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as database:
        return list(database.iterdump())


def copies(store: Path) -> list[Path]:
    return sorted(store.parent.glob("*-*.db"))


def assert_has_the_old_run(file: Path) -> None:
    assert rows(file, f"select value from params where run_uuid = '{RUN}'") == [("8",)]
    assert rows(file, "pragma integrity_check") == [("ok",)]


def test_a_plan_says_it_and_changes_nothing(home: Path, capsys: pytest.CaptureFixture[str]):
    home.mkdir()
    file = write_revision(home / "mlflow.db", MLFLOW_2_9)
    before = file.read_bytes()
    assert execute(["sweep", "demo", "--plan", "--no-timing"]) == 0
    printed = "".join(capsys.readouterr().out.split())  # long paths are broken over lines
    assert f"mlflow{file}hastheschemaofanolderMLflow({MLFLOW_2_9})" in printed
    assert execute(["sweep", "demo", "--plan", "--no-timing", "--json"]) == 0
    assert copy_name(file, MLFLOW_2_9).name in json.loads(capsys.readouterr().out)["tracking"]
    assert file.read_bytes() == before
    assert copies(file) == []


@pytest.mark.slow
def test_an_old_store_is_copied_and_migrated_once_and_both_hold_all_runs(store: Path, of_2_9: Path):
    os.chmod(store, 0o640)
    replays = [Replayer(sweep(name), mlflow_uri()) for name in ("one", "two")]
    for replay in replays:
        replay.start()
    assert [replay.finish(300) for replay in replays] == [True, True], [each.reason for each in replays]
    (copy,) = copies(store)
    assert copy == copy_name(store, MLFLOW_2_9)
    (notice,) = [notice for replay in replays for notice in replay.notices]
    assert notice.endswith(f"and was migrated. An older MLflow can open the copy {copy}")
    assert (revision_in(store), revision_in(copy)) == (installed_revisions()[0], MLFLOW_2_9)
    assert copy.stat().st_mode & 0o777 == 0o640
    for file in (store, copy):
        assert_has_the_old_run(file)
    assert content(copy) == content(of_2_9)
    sweeps = "select value from tags where key = 'orchestrator.sweep_id'"
    assert len(set(rows(store, sweeps))) == 2
    assert rows(store, "select distinct experiment_id from runs") == [(7,)]
    assert read_schema(mlflow_uri()).sentence == ""


@pytest.mark.slow
def test_the_server_of_ui_opens_an_old_store_in_the_same_way(store: Path):
    server = serve(mlflow_uri(), port=22000 + os.getpid() % 20000)
    server.stop()
    (copy,) = copies(store)
    assert str(copy) in server.notice
    assert revision_in(store) == installed_revisions()[0]
    assert_has_the_old_run(store)


@pytest.mark.slow
def test_a_migration_that_fails_leaves_the_file_as_it_was_and_no_copy(home: Path):
    home.mkdir()
    file = write_revision(home / "mlflow.db", MLFLOW_2_9)  # without the tables that the migration changes
    before = content(file)
    replayed = sync(sweep("one"), mlflow_uri())
    assert "the migration to the schema of this MLflow failed" in replayed.reason
    assert content(file) == before
    assert copies(file) == []


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_store_of_another_user_waits_for_its_owner_and_the_ledger_keeps_all(store: Path, tmp_path: Path):
    lab = Path(shutil.copy(store, tmp_path / "lab.db"))
    os.chown(lab, 12345, -1)
    before, folder = lab.read_bytes(), sweep("one")
    replayed = sync(folder, f"sqlite:///{lab}")
    assert f'-m mlflow db upgrade "sqlite:///{lab}"' in replayed.reason
    assert lab.read_bytes() == before
    assert copies(lab) == []
    with pytest.raises(ClusterError, match="mlflow db upgrade"):
        serve(f"sqlite:///{lab}")
    os.chown(lab, os.geteuid(), -1)
    assert sync(folder, f"sqlite:///{lab}").reason == ""
    assert len(rows(lab, "select * from runs where status = 'FINISHED'")) > 1


def test_a_copy_is_made_beside_a_store_in_use_and_never_replaces_another(home: Path):
    home.mkdir()
    file = write_revision(home / "mlflow.db", MLFLOW_2_9)
    with closing(sqlite3.connect(file)) as other:
        other.execute("begin")
        other.execute("select * from experiments").fetchall()
        kept = [keep_copy(file, MLFLOW_2_9) for _ in range(3)]
    first = copy_name(file, MLFLOW_2_9)
    assert [path.name for path in kept] == [first.name, f"{first.stem}-2.db", f"{first.stem}-3.db"]
    assert {revision_in(path) for path in kept} == {MLFLOW_2_9}
    assert sorted(home.iterdir()) == sorted([file, *kept])


def test_without_a_copy_nothing_is_migrated(home: Path):
    home.mkdir()
    (home / "mlflow.db").write_bytes(b"damaged" * 1000)
    with pytest.raises(ClusterError, match="not migrated, because no copy could be made"):
        keep_copy(home / "mlflow.db", MLFLOW_2_9)
    assert copies(home / "mlflow.db") == []
    with pytest.raises(ClusterError, match="cannot be read"), prepared(mlflow_uri()):
        pytest.fail("a damaged store was opened")
