import os
import shutil
from pathlib import Path

import pytest

from orchestrator.storage.events import SweepStarted, TrialPlaced
from orchestrator.storage.ledger import Ledger, read_ledger
from orchestrator.storage.remote_sweeps import copied, newest_in, segment_names, sweeps_in
from orchestrator.storage.store import Storage, StorageError, open_storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    found = open_storage(str(tmp_path / "storage"))
    found.check()
    return found


def keep(storage: Storage, folder: Path, num_trials: int = 0) -> None:
    """Writes a sweep of many segments, and copies it."""
    with Ledger(folder, segment_bytes=200) as ledger:
        ledger.append(SweepStarted(name=folder.name))
        for number in range(num_trials):
            described = {"arm_key": "a", "name": str(number), "config": {}, "is_baseline": False}
            ledger.append(TrialPlaced(trial_key=f"key{number}", attempt=1, **described))
    for path in sorted((folder / "ledger").glob("segment-*")):
        storage.put_file(path, f"sweeps/{folder.name}/ledger/{path.name}")


def test_a_copy_is_the_sweep_and_is_gone_afterwards(storage: Storage, tmp_path: Path):
    keep(storage, tmp_path / "here" / "walk", num_trials=5)
    with copied(storage, "walk", []) as folder:
        assert len(list((folder / "ledger").glob("segment-*"))) > 2
        assert read_ledger(folder) == read_ledger(tmp_path / "here" / "walk")
    assert not folder.exists()


def test_the_newest_is_the_one_that_was_written_last(storage: Storage, tmp_path: Path):
    for age, name in enumerate(("newer", "older", "middle")):
        keep(storage, tmp_path / "here" / name)
        when = {"newer": 3e9, "older": 1e9, "middle": 2e9}[name] + age
        os.utime(Path(storage.uri) / "sweeps" / name / "ledger" / "segment-00000.jsonl", (when, when))
    storage.put_bytes("sweeps/never-began/lease.json", b"{}")
    assert sweeps_in(storage) == ["middle", "newer", "older"]
    assert newest_in(storage) == "newer"


def test_a_storage_that_is_not_there_is_no_empty_one(tmp_path: Path):
    with pytest.raises(StorageError, match=r"there is no such folder .* name another storage"):
        sweeps_in(open_storage(str(tmp_path / "nowhere")))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("left", ["segment-00000.jsonl.0123456789abcdef.tmp", "segment-00000.jsonl~"])
def test_what_is_no_segment_is_not_read(storage: Storage, tmp_path: Path, left: str):
    keep(storage, tmp_path / "here" / "walk")
    (Path(storage.uri) / "sweeps" / "walk" / "ledger" / left).write_text("cut o")
    assert segment_names(storage, "walk") == ["segment-00000.jsonl"]
    with copied(storage, "walk", []) as folder:
        assert [path.name for path in (folder / "ledger").iterdir()] == ["segment-00000.jsonl"]


def test_a_name_that_leads_out_is_no_sweep(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An object store may list any name."""
    keep(storage, tmp_path / "here" / "walk")
    names = storage.names
    segments = names("sweeps/walk/ledger")
    monkeypatch.setattr(storage, "names", lambda key: [*names(key), ".."] if key == "sweeps" else segments)
    assert sweeps_in(storage) == ["walk"]


def test_a_sweep_that_is_deleted_while_it_is_read_is_one_message(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    keep(storage, tmp_path / "here" / "walk")
    listed = {key: storage.names(key) for key in ("sweeps", "sweeps/walk/ledger")}
    shutil.rmtree(Path(storage.uri) / "sweeps" / "walk")
    monkeypatch.setattr(storage, "names", listed.__getitem__)
    with pytest.raises(StorageError, match="ledger of 'walk' has just disappeared"):
        newest_in(storage)
    with (
        pytest.raises(StorageError, match="ledger of 'walk' has just disappeared"),
        copied(storage, "walk", []),
    ):
        pass
