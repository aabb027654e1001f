"""A sweep's lease and its copy in a storage, without Ray: two drivers, other homes and outages."""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from orchestrator.storage import lease as lease_module
from orchestrator.storage import mirror as mirror_module
from orchestrator.storage import store as storage_module
from orchestrator.storage import trial_files
from orchestrator.storage.events import SweepStarted, TrialFinished, TrialPlaced
from orchestrator.storage.input_staging import fetch_inputs, upload_inputs
from orchestrator.storage.lease import Holder, Lease, machine
from orchestrator.storage.ledger import Ledger, LedgerReader, read_ledger
from orchestrator.storage.mirror import Mirror, compare, fetch_sweep, reach
from orchestrator.storage.store import Storage, StorageError, open_storage
from orchestrator.storage.trial_files import TrialFiles
from trainables import places
from trainables.artifacts import atomic_directory, file_sha256
from trainables.config import from_flat
from trainables.data.datasets import load_dataset
from trainables.data.words import choose
from trainables.data.words.shipped import read_shipped
from trainables.data.words.words_file import to_yaml
from trainables.errors import ClusterError, ConfigError, DataError
from trainables.shell import command

NAME = "walk"


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(storage_module, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(lease_module, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(mirror_module, "MIRROR_SECONDS", 0.05)
    found = open_storage(str(tmp_path / "storage"))
    found.check()
    return found


def away(storage: Storage, monkeypatch: pytest.MonkeyPatch, *, is_away: bool = True) -> None:
    """Lets every verb fail, as it does when the network is gone."""
    if not is_away:
        monkeypatch.undo()
        return

    def refuse(*_):
        raise OSError("AWS Error NETWORK_CONNECTION during PutObject operation")

    monkeypatch.setattr(storage, "_write", refuse)
    monkeypatch.setattr(storage, "_info", lambda key: storage._patiently(key, refuse))
    monkeypatch.setattr(storage, "names", lambda key: storage._patiently(key, refuse))
    monkeypatch.setattr(storage, "get_bytes", lambda key: storage._patiently(key, refuse))


def write(folder: Path, *trials: str) -> None:
    """A sweep with finished trials, each with one result."""
    with Ledger(folder) as ledger:
        ledger.append(SweepStarted(name=folder.name))
        for key in trials:
            add(ledger, folder, key)


def add(ledger: Ledger, folder: Path, key: str) -> None:
    described = {"arm_key": key, "name": key, "config": {}, "is_baseline": False}
    ledger.append(TrialPlaced(trial_key=key, attempt=1, **described))
    result = folder / "trials" / key / "results" / "confusion.json"
    result.parent.mkdir(parents=True)
    result.write_text(f'"{key}"')
    ends = {"metrics": {}, "seconds": 1.0, "workdir": f"trials/{key}", "stopped_early": False}
    results = {"results/confusion.json": file_sha256(result)}
    ledger.append(TrialFinished(trial_key=key, attempt=1, results=results, **ends))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home" / "sweeps" / NAME


class TestTheLease:
    def test_a_second_driver_learns_who_has_it(self, storage: Storage):
        first = Lease(storage, NAME)
        first.acquire()
        with pytest.raises(ClusterError, match=r"'walk' in .*is being run by process \d+ on .* since 2"):
            Lease(storage, NAME).acquire()
        first.release()
        Lease(storage, NAME).acquire()

    def test_of_many_at_once_one_gets_it(self, storage: Storage):
        got: list[Lease] = []

        def take() -> None:
            lease = Lease(storage, NAME)
            try:
                lease.acquire()
            except ClusterError:
                return
            got.append(lease)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1
        assert got[0].renew() is None

    def test_two_that_both_saw_none_are_told_apart_by_reading_back(self, storage: Storage, monkeypatch):
        """As where a store has no conditional write."""

        def overwrite(key, content):
            storage.put_bytes(key, content)
            return True

        monkeypatch.setattr(storage, "create", overwrite)
        self.test_of_many_at_once_one_gets_it(storage)

    def test_a_dead_driver_of_this_machine_is_no_obstacle(self, storage: Storage):
        gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True)
        holder = Holder("other", "here", int(gone.stdout), machine(), "2026-01-01", "2026-01-01")
        storage.put_bytes(f"sweeps/{NAME}/lease.json", holder.to_bytes())
        Lease(storage, NAME).acquire()

    def test_a_silent_driver_of_another_machine_is_waited_for_and_then_replaced(
        self, storage: Storage, monkeypatch
    ):
        silent = Holder("other", "elsewhere", 1, "another", "2026-01-01", "2026-01-01")
        storage.put_bytes(f"sweeps/{NAME}/lease.json", silent.to_bytes())
        with pytest.raises(ClusterError, match="process 1 on elsewhere"):
            Lease(storage, NAME).acquire()
        monkeypatch.setattr(lease_module, "LEASE_SECONDS", 0.2)
        time.sleep(0.3)
        Lease(storage, NAME).acquire()

    def test_who_was_replaced_learns_it_and_leaves_the_other_s_alone(self, storage: Storage, monkeypatch):
        slow, quick = Lease(storage, NAME), Lease(storage, NAME)
        slow.acquire()
        monkeypatch.setattr(quick, "_is_stale", lambda _: True)
        quick.acquire()
        assert slow.renew().owner == quick.owner
        slow.release()
        assert quick.holder().owner == quick.owner


def test_the_home_is_no_storage_of_itself(home: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="is the home folder"):
        reach(str(home))
    reach(str(home.with_name("beside")))


class TestTheMirror:
    def test_a_sweep_comes_back_in_an_empty_home(self, storage: Storage, folder: Path, tmp_path: Path):
        write(folder, "a", "b")
        mirror = Mirror(storage, folder, print)
        mirror.start(resumes=True)
        mirror.finish()
        other = tmp_path / "other" / "sweeps" / NAME
        fetch_sweep(storage, other)
        assert read_ledger(other) == read_ledger(folder)
        assert (other / "trials/a/results/confusion.json").read_text() == '"a"'
        assert storage.names(f"sweeps/{NAME}") == ["ledger", "trials"]  # the lease is given up

    def test_every_segment_arrives_while_the_sweep_runs(self, storage: Storage, folder: Path):
        with Ledger(folder, segment_bytes=200) as ledger:
            mirror = Mirror(storage, folder, print)
            mirror.start(resumes=False)
            ledger.append(SweepStarted(name=NAME))
            for key in ("a", "b", "c"):
                add(ledger, folder, key)
            until = time.monotonic() + 10
            while compare(storage, folder) != "equal" and time.monotonic() < until:
                time.sleep(0.02)
            assert compare(storage, folder) == "equal"
            assert len(storage.names(f"sweeps/{NAME}/ledger")) > 2
            mirror.finish()

    def test_a_storage_that_goes_away_is_said_once_and_made_good(self, storage: Storage, folder: Path):
        said: list[str] = []
        with Ledger(folder) as ledger, pytest.MonkeyPatch.context() as patch:
            mirror = Mirror(storage, folder, said.append)
            mirror.start(resumes=False)
            away(storage, patch)
            ledger.append(SweepStarted(name=NAME))
            add(ledger, folder, "a")
            time.sleep(0.5)
            assert [text for text in said if "continues on this machine and is copied later" in text] == said
            assert len(said) == 1
            patch.undo()
            until = time.monotonic() + 10
            while len(said) < 2 and time.monotonic() < until:
                time.sleep(0.02)
            assert "answers again" in said[1]
            mirror.finish()
        assert compare(storage, folder) == "equal"
        assert storage.is_whole(f"sweeps/{NAME}/trials/a/results")

    def test_one_that_stays_away_leaves_a_whole_sweep_here_and_says_how_to_complete_it(
        self, storage: Storage, folder: Path, monkeypatch
    ):
        said: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            mirror = Mirror(storage, folder, said.append)
            mirror.start(resumes=False)
            away(storage, patch)
            write(folder, "a")
            mirror.finish()
        assert f"Complete the copy: {command('sweep --resume walk --storage')}" in said[-1]
        monkeypatch.setattr(lease_module, "is_alive", lambda _: False)  # that driver's process has ended
        again = Mirror(storage, folder, said.append)
        again.start(resumes=True)
        again.finish()
        assert compare(storage, folder) == "equal"

    def test_a_name_that_is_taken_in_the_storage_is_refused(
        self, storage: Storage, folder: Path, tmp_path: Path
    ):
        write(folder, "a")
        mirror = Mirror(storage, folder, print)
        mirror.start(resumes=True)
        mirror.finish()
        elsewhere = tmp_path / "other" / "sweeps" / NAME
        elsewhere.mkdir(parents=True)
        with pytest.raises(ClusterError, match=r"exists already in .*--resume walk"):
            Mirror(storage, elsewhere, print).start(resumes=False)
        assert "lease.json" not in storage.names(f"sweeps/{NAME}")

    def test_who_lost_the_lease_copies_nothing_any_more(self, storage: Storage, folder: Path, monkeypatch):
        monkeypatch.setattr(mirror_module, "RENEW_SECONDS", 0.0)
        said: list[str] = []
        write(folder, "a")
        mirror = Mirror(storage, folder, said.append)
        mirror.start(resumes=True)
        mirror.copy_ledger()
        thief = Holder("thief", "elsewhere", 7, "another", "2026-01-01", "2026-01-01")
        storage.put_bytes(f"sweeps/{NAME}/lease.json", thief.to_bytes())
        until = time.monotonic() + 10
        while not mirror.is_lost and time.monotonic() < until:
            time.sleep(0.02)
        assert mirror.is_lost
        assert "process 7 on elsewhere has taken over" in said[-1]
        before = storage.get_bytes(f"sweeps/{NAME}/ledger/segment-00000.jsonl")
        with Ledger(folder) as ledger:
            add(ledger, folder, "b")
        mirror.finish()
        assert storage.get_bytes(f"sweeps/{NAME}/ledger/segment-00000.jsonl") == before
        assert Lease(storage, NAME).holder() == thief

    def test_two_ledgers_that_part_are_not_mixed(self, storage: Storage, folder: Path, tmp_path: Path):
        other = tmp_path / "other" / "sweeps" / NAME
        write(folder, "a")
        mirror = Mirror(storage, folder, print)
        mirror.start(resumes=True)
        mirror.finish()
        fetch_sweep(storage, other)
        for place, key in ((folder, "b"), (other, "c")):
            with Ledger(place) as ledger:
                add(ledger, place, key)
        mirror = Mirror(storage, folder, print)
        mirror.start(resumes=True)
        mirror.finish()
        with pytest.raises(DataError, match="its ledger differs from that in"):
            fetch_sweep(storage, other)

    def test_a_driver_that_was_killed_while_it_wrote_there_can_be_resumed(
        self, storage: Storage, folder: Path
    ):
        write(folder, "a")
        mirror = Mirror(storage, folder, print)
        mirror.copy_ledger()
        left = Path(storage.uri) / f"sweeps/{NAME}/ledger/segment-00000.jsonl.{'0123abcd' * 2}.tmp"
        left.write_bytes(b'{"v":1,"seq":0,"ti')
        assert compare(storage, folder) == "equal"
        mirror.start(resumes=True)
        mirror.finish()

    def test_a_damaged_result_in_the_storage_is_named(self, storage: Storage, folder: Path, tmp_path: Path):
        write(folder, "a")
        mirror = Mirror(storage, folder, print)
        mirror.start(resumes=True)
        mirror.finish()
        storage.put_bytes(f"sweeps/{NAME}/trials/a/results/confusion.json", b"{}")
        with pytest.raises(DataError, match=r"trials/a/results/confusion\.json is damaged"):
            fetch_sweep(storage, tmp_path / "other" / "sweeps" / NAME)
        fetch_sweep(storage, folder)  # here it lies whole

    def test_a_sweep_that_is_nowhere_names_those_that_are(
        self, storage: Storage, folder: Path, tmp_path: Path
    ):
        write(folder, "a")
        mirror = Mirror(storage, folder, print)
        mirror.start(resumes=True)
        mirror.finish()
        with pytest.raises(DataError, match=r"no sweep 'wolk' on this machine or in .* \(has: walk\)"):
            fetch_sweep(storage, tmp_path / "home" / "sweeps" / "wolk")


def files_in(home: Path, storage: Storage | None) -> TrialFiles:
    return TrialFiles(home, home / "sweeps" / NAME / "trials" / "key", storage)


def checkpoint(files: TrialFiles, step: int) -> Path:
    with atomic_directory(files.workdir / "checkpoints" / f"step-{step:08d}") as aside:
        (aside / "parameters.safetensors").write_text(f"of step {step}")
    return files.workdir / "checkpoints" / f"step-{step:08d}"


class TestATrialOnAnotherNode:
    def test_goes_on_from_the_newest_checkpoint(self, storage: Storage, tmp_path: Path):
        first, second = files_in(tmp_path / "one", storage), files_in(tmp_path / "two", storage)
        for step in (1, 2, 3):
            checkpoint(first, step)
            first.upload_checkpoints()
        assert storage.names("sweeps/walk/trials/key/checkpoints") == ["step-00000002", "step-00000003"]
        second.workdir.mkdir(parents=True)
        place, damages = second.fetch_checkpoint(2)
        assert (place.name, damages) == ("step-00000003", [])
        assert (place / "parameters.safetensors").read_text() == "of step 3"

    def test_passes_over_a_damaged_one_and_says_so(self, storage: Storage, tmp_path: Path):
        first, second = files_in(tmp_path / "one", storage), files_in(tmp_path / "two", storage)
        for step in (1, 2):
            checkpoint(first, step)
        first.upload_checkpoints()
        key = "sweeps/walk/trials/key/checkpoints/step-00000002/parameters.safetensors"
        storage.put_bytes(key, b"others")
        second.workdir.mkdir(parents=True)
        place, damages = second.fetch_checkpoint(2)
        assert place.name == "step-00000001"
        assert "step-00000002/parameters.safetensors is damaged" in damages[0]
        storage.put_bytes(key.replace("02", "01"), b"others")
        shutil.rmtree(tmp_path / "two")
        second.workdir.mkdir(parents=True)
        with pytest.raises(DataError, match="no sound checkpoint is left"):
            second.fetch_checkpoint(2)

    def test_without_an_answer_goes_on_only_where_all_attempts_were(self, storage: Storage, tmp_path: Path):
        first, second = files_in(tmp_path / "one", storage), files_in(tmp_path / "two", storage)
        place = checkpoint(first, 1)
        (first.workdir / "attempt-1.lock").touch()
        second.workdir.mkdir(parents=True)
        with pytest.MonkeyPatch.context() as patch:
            away(storage, patch)
            assert first.fetch_checkpoint(2)[0] == place
            assert "the trial continues from the checkpoint on this machine" in first.warnings[0]
            with pytest.raises(StorageError):
                second.fetch_checkpoint(2)

    def test_trains_on_while_the_storage_is_away_and_asks_rarely(self, storage: Storage, tmp_path: Path):
        files = files_in(tmp_path / "one", storage)
        with pytest.MonkeyPatch.context() as patch:
            away(storage, patch)
            for step in (1, 2, 3):
                checkpoint(files, step)
                files.upload_checkpoints()
            assert len(files.warnings) == 1
        checkpoint(files, 4)
        files.upload_checkpoints()
        assert not storage.exists("sweeps/walk/trials/key/checkpoints")  # it was not asked again yet
        files.asks_again = 0.0
        files.upload_checkpoints()
        assert len(storage.names("sweeps/walk/trials/key/checkpoints")) == 2

    def test_takes_an_adapter_that_another_node_made(self, storage: Storage, tmp_path: Path):
        first, second = files_in(tmp_path / "one", storage), files_in(tmp_path / "two", storage)
        adapter = tmp_path / "one" / "store" / "adapters" / "a1"
        with atomic_directory(adapter) as aside:
            (aside / "weights").write_text("w")
        first.keep(adapter)
        there = tmp_path / "two" / "store" / "adapters" / "a1"
        second.fetch(there)
        second.fetch(there.with_name("a2"))
        assert (there / "weights").read_text() == "w"
        assert not there.with_name("a2").exists()
        assert trial_files.kept_by(first.workdir) == ["store/adapters/a1"]

    def test_hears_the_last_words_of_its_other_workers(self, storage: Storage, tmp_path: Path):
        first, second = files_in(tmp_path / "one", storage), files_in(tmp_path / "two", storage)
        first.workdir.mkdir(parents=True)
        words = first.workdir / "failure-1.json"
        words.write_text(json.dumps(["non_finite", "nan at step 3"]))
        first.upload_failure(2, words)
        second.fetch_failures(1)
        assert not (second.workdir / "failure-1.json").exists()
        second.fetch_failures(2)
        assert (second.workdir / "failure-1.json").read_text() == words.read_text()

    def test_without_a_storage_nothing_moves(self, tmp_path: Path):
        files = files_in(tmp_path, None)
        place = checkpoint(files, 1)
        files.upload_checkpoints()
        files.upload_results()
        files.keep(tmp_path / "store" / "x")
        assert files.fetch_checkpoint(1) == (place, [])
        assert [path.name for path in tmp_path.iterdir()] == ["sweeps"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    from PIL import Image

    root, rows = tmp_path / "data set", ["path,label,patient_id,split"]
    (root / "deep").mkdir(parents=True)
    for number, split in enumerate(["train", "val", "test"] * 2):
        Image.new("L", (8, 8), 20 * number).save(root / "deep" / f"{number}.png")
        rows.append(f"deep/{number}.png,{'Normal' if number < 3 else 'COVID-19'},p{number},{split}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    (root / "diary.txt").write_text("not part of the data set")
    return root


class TestInputs:
    def test_a_data_set_arrives_once_a_node_and_is_the_same(
        self, storage: Storage, images: Path, tmp_path: Path, monkeypatch
    ):
        monkeypatch.setattr(places, "_BROUGHT", {})
        config = from_flat({"data.dataset": "manifest", "data.root": str(images)})
        inputs = upload_inputs(storage, [config, config])
        assert upload_inputs(storage, [config]) == inputs
        before = load_dataset(config.data)
        assert len(storage.names("blobs")) == 7  # six images and the table
        images.rename(tmp_path / "not on this node")
        load_dataset.__globals__["_read"].cache_clear()
        load_dataset.__globals__["_load"].cache_clear()
        fetched: list[str] = []
        get_files = storage.get_files
        monkeypatch.setattr(storage, "get_files", lambda *args: (fetched.append("once"), get_files(*args)))
        threads = [
            threading.Thread(target=fetch_inputs, args=(storage, inputs, tmp_path / "s")) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        after = load_dataset(config.data)
        assert fetched == ["once"]
        assert after.fingerprint == before.fingerprint
        assert not list((tmp_path / "s").rglob("diary.txt"))
        assert all(not record.labels for record in after.records if record.split == "test")
        load_dataset.__globals__["_read"].cache_clear()
        load_dataset.__globals__["_load"].cache_clear()

    def test_what_lies_on_the_node_is_not_fetched(self, storage: Storage, images: Path, tmp_path: Path):
        config = from_flat({"data.dataset": "manifest", "data.root": str(images)})
        fetch_inputs(storage, upload_inputs(storage, [config]), tmp_path / "store")
        assert not (tmp_path / "store").exists()

    def test_the_words_of_the_user_travel(self, storage: Storage, tmp_path: Path, monkeypatch):
        monkeypatch.setattr(places, "_BROUGHT", {})
        words = read_shipped("covid_qu_ex")
        path = tmp_path / "own.yaml"
        path.write_text(to_yaml(words.classes, words.sources).replace("a normal chest", "a healthy chest"))
        config = from_flat({"data.prompts": str(path)})
        inputs = upload_inputs(storage, [config, config])
        before = load_dataset(config.data).words
        path.rename(tmp_path / "not on this node")
        load_dataset.__globals__["_load"].cache_clear()
        choose._read.cache_clear()
        with pytest.raises(ConfigError, match=r"own\.yaml does not exist"):
            load_dataset(config.data)
        fetch_inputs(storage, inputs, tmp_path / "store")
        after = load_dataset(config.data).words
        assert after.of("Normal").name == "a healthy chest"
        assert after.fingerprint == before.fingerprint

    def test_a_folder_of_weights_travels_without_what_is_never_read(
        self, storage: Storage, tmp_path: Path, monkeypatch
    ):
        monkeypatch.setattr(places, "_BROUGHT", {})
        weights = tmp_path / "clip"
        weights.mkdir()
        for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
            (weights / name).write_text(name)
        inputs = upload_inputs(storage, [from_flat({"encoder.name": str(weights)})])
        weights.rename(tmp_path / "elsewhere")
        fetch_inputs(storage, inputs, tmp_path / "store")
        from trainables.models.files.checkpoints import local_folder

        found = local_folder(str(weights))
        assert sorted(path.name for path in found.iterdir()) == ["config.json", "model.safetensors"]

    def test_a_damaged_image_in_the_storage_is_named(
        self, storage: Storage, images: Path, tmp_path: Path, monkeypatch
    ):
        monkeypatch.setattr(places, "_BROUGHT", {})
        config = from_flat({"data.dataset": "manifest", "data.root": str(images)})
        inputs = upload_inputs(storage, [config])
        sha256 = file_sha256(images / "deep" / "3.png")
        storage.put_bytes(f"blobs/{sha256}", b"another image")
        images.rename(tmp_path / "not on this node")
        with pytest.raises(DataError, match=f"blobs/{sha256} is damaged"):
            fetch_inputs(storage, inputs, tmp_path / "store")


def test_the_reader_of_a_ledger_from_a_storage_finds_every_entry(
    storage: Storage, folder: Path, tmp_path: Path
):
    write(folder, *"abc")
    mirror = Mirror(storage, folder, print)
    mirror.start(resumes=True)
    mirror.finish()
    fetch_sweep(storage, tmp_path / "other" / "sweeps" / NAME)
    entries = LedgerReader(tmp_path / "other" / "sweeps" / NAME).poll()
    assert [entry.seq for entry in entries] == list(range(7))
