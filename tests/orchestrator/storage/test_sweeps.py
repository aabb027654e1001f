"""What `sweeps delete` frees, and what it must leave."""

from pathlib import Path

import pytest

from orchestrator.storage import sweeps
from orchestrator.storage.events import SweepStarted
from orchestrator.storage.ledger import Ledger, read_ledger
from orchestrator.storage.paths import home as home_folder
from orchestrator.storage.paths import sweep_folder, sweep_names
from orchestrator.storage.sweeps import delete_sweep, size_bytes
from orchestrator.storage.trial_files import TrialFiles
from trainables.artifacts import atomic_directory
from trainables.errors import ClusterError, ConfigError, DataError


def begin(name: str, *, uses: list[str]) -> Path:
    """Writes a sweep with one trial, which keeps these entries of the store."""
    folder = sweep_folder(name)
    with Ledger(folder) as ledger:
        ledger.append(SweepStarted(name=name))
    workdir = folder / "trials" / "key"
    (workdir / "results").mkdir(parents=True)
    (workdir / "results" / "confusion.json").write_text("x" * 100)
    for key in uses:
        entry = home_folder() / "store" / key
        if not entry.exists():
            with atomic_directory(entry) as aside:
                (aside / "weights").write_bytes(b"w" * 1000)
        TrialFiles(home_folder(), workdir).keep(entry)
    return folder


def test_deletes_the_folder_and_the_entries_that_no_other_sweep_uses(home: Path):
    folder = begin("old", uses=["adapters/a1", "embeddings/e1"])
    begin("new", uses=["embeddings/e1"])
    expected = size_bytes(folder) + size_bytes(home / "store" / "adapters" / "a1")
    assert delete_sweep("old") == expected > 1100
    assert sweep_names() == ["new"]
    assert not folder.exists()
    assert not (home / "store" / "adapters" / "a1").exists()
    assert (home / "store" / "embeddings" / "e1" / "weights").is_file()


def test_keeps_the_store_while_another_sweep_runs(home: Path):
    begin("old", uses=["adapters/a1"])
    with Ledger(begin("busy", uses=["adapters/a2"])):
        delete_sweep("old")
    assert (home / "store" / "adapters" / "a1").is_dir()


def test_keeps_the_store_where_a_sweep_of_an_earlier_version_left_no_record(home: Path):
    begin("old", uses=["adapters/a1"])
    begin("earlier", uses=[])
    delete_sweep("old")
    assert (home / "store" / "adapters" / "a1").is_dir()


def test_refuses_while_its_driver_runs_and_deletes_nothing(home: Path):
    folder = begin("busy", uses=["adapters/a1"])
    size = size_bytes(home / "store")
    with Ledger(folder), pytest.raises(ClusterError, match="'busy' is being run by process"):
        delete_sweep("busy")
    assert (folder / "trials" / "key" / "results" / "confusion.json").is_file()
    assert size_bytes(home / "store") == size


def test_a_damaged_sweep_can_be_deleted(home: Path):
    folder = begin("broken", uses=[])
    (folder / "ledger" / "segment-00000.jsonl").write_text("not a ledger\n")
    assert delete_sweep("broken") > 100
    assert not folder.exists()


def test_an_unknown_name_is_answered_with_the_nearest(home: Path):
    begin("covid-rank", uses=[])
    with pytest.raises(DataError, match="did you mean 'covid-rank'"):
        delete_sweep("covid-rnk")
    with pytest.raises(ConfigError, match="sweep name"):
        delete_sweep("../store")


def test_a_record_cannot_lead_out_of_the_store(home: Path):
    folder, outside = begin("sly", uses=[]), home / "precious"
    outside.mkdir()
    (folder / "trials" / "key" / "kept.json").write_text('["store/../precious", "store/adapters/.."]')
    (home / "store" / "adapters").mkdir(parents=True)
    delete_sweep("sly")
    assert outside.is_dir()
    assert (home / "store" / "adapters").is_dir()


def test_after_a_crash_it_can_be_deleted_again(home: Path, monkeypatch: pytest.MonkeyPatch):
    folder = begin("half", uses=["adapters/a1"])
    delete = sweeps._delete

    def crash(path: Path) -> int:
        if path == folder:
            raise KeyboardInterrupt
        return delete(path)

    monkeypatch.setattr(sweeps, "_delete", crash)
    with pytest.raises(KeyboardInterrupt):
        delete_sweep("half")
    assert read_ledger(folder).name == "half"
    monkeypatch.undo()
    monkeypatch.setenv("CLIP_ORCHESTRATOR_HOME", str(home))
    delete_sweep("half")
    assert not folder.exists()
