from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.driver.sweep_claim import claimed
from orchestrator.storage.events import SweepStarted
from orchestrator.storage.ledger import Ledger, read_ledger
from orchestrator.storage.paths import sweep_folder
from trainables.errors import ClusterError, ConfigError


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
