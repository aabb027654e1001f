from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.driver import sweep_claim
from orchestrator.driver.sweep_claim import claimed
from orchestrator.storage.driver_lock import hold_driver_lock, running_driver
from orchestrator.storage.events import SweepStarted
from orchestrator.storage.ledger import Ledger, read_ledger
from orchestrator.storage.paths import sweep_folder, sweep_names
from trainables.errors import ClusterError, ConfigError


class Noon(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: object = None) -> Noon:
        return cls(2026, 11, 30, 12)


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIP_ORCHESTRATOR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_name_in_use_is_refused_and_the_next_free_one_told(own_home: Path):
    with claimed("demo", "one", resumes=False) as (_, ledger):
        ledger.append(SweepStarted(name="one"))
    with (
        pytest.raises(ConfigError, match=r"--resume one\), .* --name one-2$"),
        claimed("demo", "one", resumes=False),
    ):
        pass


def test_two_drivers_of_one_name_do_not_meet(own_home: Path):
    with claimed("demo", "one", resumes=False) as (folder, ledger):  # claimed, but Ray is still starting
        with pytest.raises(ClusterError, match="being run by process"), claimed("demo", "one", resumes=False):
            pass
        ledger.append(SweepStarted(name="one"))
    assert read_ledger(folder).started == SweepStarted(name="one")


def test_sweeps_of_one_second_get_different_names(own_home: Path, monkeypatch: pytest.MonkeyPatch):
    """None of them has written a line yet, as Ray takes seconds to start."""
    monkeypatch.setattr(sweep_claim, "datetime", Noon)
    with ExitStack() as drivers:
        claims = [drivers.enter_context(claimed("demo", None, resumes=False)) for _ in range(3)]
        names = [folder.name for folder, _ in claims]
        assert names == ["demo-20261130-120000", "demo-20261130-120000-2", "demo-20261130-120000-3"]
        for name, (_, ledger) in zip(names, claims, strict=True):
            ledger.append(SweepStarted(name=name))
    assert sorted(sweep_names()) == sorted(names)
    with claimed("demo", None, resumes=False) as (folder, _):
        assert folder.name == "demo-20261130-120000-4"


@pytest.mark.slow
def test_many_processes_that_claim_at_once_get_as_many_names(own_home: Path):
    """Also while some end without a trial, and so delete their folders."""
    code = (
        "import random, sys; from orchestrator.driver.sweep_claim import claimed\n"
        "from orchestrator.storage.events import SweepStarted\n"
        "kept = 0\n"
        "sys.stdin.readline()\n"
        "for i in range(40):\n"
        "    with claimed('demo', None, resumes=False) as (folder, ledger):\n"
        "        if i % 4 == 0: ledger.append(SweepStarted(name=folder.name)); kept += 1\n"
        "print(kept)"
    )
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    drivers = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(4)]
    kept = [driver.communicate("go\n", timeout=120)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0] * 4
    assert sum(map(int, kept)) == len(sweep_names()) == 40
    for name in sweep_names():
        assert read_ledger(sweep_folder(name)).started == SweepStarted(name=name)


def test_a_lock_of_a_deleted_sweep_is_not_taken_for_that_of_a_new_one(own_home: Path):
    """The driver opened the file before another driver deleted the folder, and locks it afterwards."""
    folder = own_home / "sweeps" / "one"
    first = hold_driver_lock(folder)
    locked = fcntl.flock

    def delete_before_the_lock_is_had(descriptor: int, operation: int) -> None:
        if first_try := tries.pop() if tries else None:
            shutil.rmtree(folder)
            os.close(first_try)
        locked(descriptor, operation)

    tries = [first]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", delete_before_the_lock_is_had)
        second = hold_driver_lock(folder)
    assert running_driver(folder) == os.getpid()
    os.close(second)


def test_a_sweep_that_never_started_leaves_its_name_free(own_home: Path):
    def claim_and_fail() -> None:
        with claimed("demo", "bad", resumes=False) as (folder, _):
            assert folder.is_dir()
            raise ConfigError("broken")

    with pytest.raises(ConfigError, match="broken"):
        claim_and_fail()
    assert list((own_home / "sweeps").iterdir()) == []


def test_a_first_line_that_a_kill_tore_off_leaves_the_name_free(own_home: Path):
    folder = sweep_folder("torn")
    with Ledger(folder) as ledger:
        os.write(ledger._file, b'{"v":1,"seq":0')
    with claimed("demo", "torn", resumes=False) as (_, ledger):
        assert ledger.append(SweepStarted(name="torn")).seq == 0
