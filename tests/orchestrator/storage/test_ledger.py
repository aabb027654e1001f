import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.storage.events import (
    SweepFinished,
    SweepStarted,
    TrialFailed,
    TrialFinished,
    TrialPlaced,
    TrialReported,
)
from orchestrator.storage.ledger import Ledger, LedgerReader, read_ledger
from trainables.errors import ClusterError, DataError

PLACED = {"arm_key": "arm", "name": "rank 8", "config": {"lora.rank": 8}, "is_baseline": False}


def write_sweep(folder: Path, **options) -> None:
    with Ledger(folder, **options) as ledger:
        ledger.append(SweepStarted(name=folder.name, seed=1))
        for key in ("a", "b", "c"):
            ledger.append(TrialPlaced(trial_key=key, attempt=1, **PLACED))
        for epoch in (1, 2):
            ledger.append(
                TrialReported(trial_key="a", attempt=1, epoch=epoch, metrics={"train/loss": 1 / epoch})
            )
        ledger.append(TrialFinished(trial_key="a", attempt=1, seconds=2.5, stopped_early=False,
            metrics={"val/probe_joint/accuracy": 0.5}, workdir="trials/a", results={"confusion.json": "00"},
        ))  # fmt: skip
        ledger.append(
            TrialFailed(trial_key="b", attempt=1, cause="non_finite", message="loss is nan at step 3")
        )


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "ledger").glob("segment-*.jsonl"))


def test_replay_returns_what_was_appended(tmp_path: Path):
    write_sweep(tmp_path / "s")
    state = read_ledger(tmp_path / "s")
    a, b, c = (state.trials[key] for key in "abc")
    assert state.started.seed == 1
    assert (a.status, a.metrics, a.seconds, a.workdir) == (
        "finished", {"val/probe_joint/accuracy": 0.5}, 2.5, "trials/a",
    )  # fmt: skip
    assert a.history == [(1, 1, {"train/loss": 1.0}), (1, 2, {"train/loss": 0.5})]
    assert (b.status, b.cause, b.message) == ("failed", "non_finite", "loss is nan at step 3")
    assert (c.status, c.attempts, c.config) == ("placed", 1, {"lora.rank": 8})
    assert state.finished is None


def test_weights_that_are_absent_are_not_a_failure(tmp_path: Path):
    with Ledger(tmp_path / "s") as ledger:
        ledger.append(TrialPlaced(trial_key="a", attempt=1, **PLACED))
        ledger.append(TrialFailed(trial_key="a", attempt=1, cause="unavailable", message="no weights"))
    assert read_ledger(tmp_path / "s").trials["a"].status == "unavailable"


def test_a_second_attempt_clears_the_first_ones_failure(tmp_path: Path):
    write_sweep(tmp_path / "s")
    with Ledger(tmp_path / "s") as ledger:
        ledger.append(TrialPlaced(trial_key="b", attempt=2, **PLACED))
    trial = read_ledger(tmp_path / "s").trials["b"]
    assert (trial.status, trial.attempts, trial.cause) == ("placed", 2, None)


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_last_line_never_happened(tmp_path: Path, cut: int):
    write_sweep(tmp_path / "s")
    whole = LedgerReader(tmp_path / "s").poll()
    path = segments(tmp_path / "s")[-1]
    path.write_bytes(path.read_bytes()[:-cut])
    assert LedgerReader(tmp_path / "s").poll() == whole[:-1]
    with Ledger(tmp_path / "s") as ledger:
        assert ledger.append(SweepFinished(exit_code=0, seconds=1.0)).seq == len(whole) - 1
    last = [type(entry.event) for entry in LedgerReader(tmp_path / "s").poll()][-2:]
    assert last == [TrialFinished, SweepFinished]


def test_every_flipped_bit_is_found_and_named(tmp_path: Path):
    """All bits of the second line and of its neighbours' ends: text, checksum, newline."""
    write_sweep(tmp_path / "s")
    path = segments(tmp_path / "s")[0]
    clean = path.read_bytes()
    lines = clean.splitlines(keepends=True)
    for place in range(len(lines[0]) - 1, len(lines[0]) + len(lines[1]), 3):
        for bit in (0, 5):
            damaged = bytearray(clean)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(DataError, match=r"segment-00000\.jsonl, line [12]"):
                read_ledger(tmp_path / "s")
    path.write_bytes(clean)
    read_ledger(tmp_path / "s")


def test_a_line_cut_out_is_found(tmp_path: Path):
    write_sweep(tmp_path / "s")
    path = segments(tmp_path / "s")[0]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(DataError, match="line 3: it is entry 3, but entry 2 was expected"):
        read_ledger(tmp_path / "s")


def test_a_damaged_ledger_is_not_written_to(tmp_path: Path):
    write_sweep(tmp_path / "s")
    path = segments(tmp_path / "s")[0]
    path.write_bytes(path.read_bytes().replace(b"rank 8", b"rank 9", 1))
    damaged = path.read_bytes()
    with pytest.raises(DataError, match="checksum"):
        Ledger(tmp_path / "s")
    assert path.read_bytes() == damaged


def test_segments_are_read_as_one_and_the_closed_ones_stay(tmp_path: Path):
    write_sweep(tmp_path / "one")
    write_sweep(tmp_path / "many", segment_bytes=300)
    assert len(segments(tmp_path / "many")) > 2
    closed = segments(tmp_path / "many")[0].read_bytes()
    one, many = read_ledger(tmp_path / "one"), read_ledger(tmp_path / "many")
    assert many.trials == one.trials
    with Ledger(tmp_path / "many", segment_bytes=300) as ledger:
        ledger.append(SweepFinished(exit_code=0, seconds=1.0))
    assert segments(tmp_path / "many")[0].read_bytes() == closed
    assert read_ledger(tmp_path / "many").finished == SweepFinished(exit_code=0, seconds=1.0)


def test_a_torn_line_in_a_closed_segment_is_damage(tmp_path: Path):
    write_sweep(tmp_path / "s", segment_bytes=300)
    path = segments(tmp_path / "s")[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="segment-00000"):
        read_ledger(tmp_path / "s")


def test_a_reader_follows_the_writer(tmp_path: Path):
    with Ledger(tmp_path / "s", segment_bytes=300) as ledger:
        reader, seen = LedgerReader(tmp_path / "s"), []
        for number in range(20):
            ledger.append(TrialReported(trial_key="x" * 50, attempt=1, epoch=number, metrics={}))
            if number % 3 == 0:
                seen += reader.poll()
        seen += reader.poll()
    assert [entry.event.epoch for entry in seen] == list(range(20))
    assert reader.poll() == []


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from orchestrator.storage.ledger import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "s")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    try:
        assert writer.stdout.readline() == b"open\n"
        with pytest.raises(ClusterError, match=f"run by process {writer.pid}"):
            Ledger(tmp_path / "s")
    finally:
        writer.kill()  # no clean-up of its own: the kernel drops the lock
        writer.communicate()
    with Ledger(tmp_path / "s") as ledger:
        ledger.append(SweepStarted(name="s"))
    assert read_ledger(tmp_path / "s").started == SweepStarted(name="s")


def test_a_full_disk_leaves_the_ledger_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with Ledger(tmp_path / "s") as ledger:
        ledger.append(SweepStarted(name="s"))
        before = segments(tmp_path / "s")[0].read_bytes()
        write = os.write
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda file, data: write(file, data[:10]))
            with pytest.raises(OSError, match="part of a line"):
                ledger.append(SweepFinished(exit_code=0, seconds=1.0))
        assert segments(tmp_path / "s")[0].read_bytes() == before
        ledger.append(SweepFinished(exit_code=0, seconds=1.0))
    assert read_ledger(tmp_path / "s").finished is not None


def test_a_number_that_is_not_finite_is_refused(tmp_path: Path):
    with Ledger(tmp_path / "s") as ledger, pytest.raises(ValueError, match="JSON compliant"):
        ledger.append(TrialReported(trial_key="a", attempt=1, epoch=1, metrics={"train/loss": float("nan")}))


def test_an_unknown_sweep_offers_the_nearest(tmp_path: Path):
    write_sweep(tmp_path / "demo-1")
    with pytest.raises(DataError, match=r"no sweep 'demo1'.*did you mean 'demo-1'"):
        read_ledger(tmp_path / "demo1")
    assert not (tmp_path / "demo1").exists()
