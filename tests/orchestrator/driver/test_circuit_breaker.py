"""When trials have to wait, and when no more of them are started."""

from pathlib import Path

import pytest

from orchestrator.driver.circuit_breaker import Brakes, free_bytes
from orchestrator.search.space import SearchSettings


@pytest.fixture
def said() -> list[str]:
    return []


def test_low_space_is_said_once_each_way_and_passes(tmp_path: Path, said: list[str]):
    free = [3 * 2**30]
    brakes = Brakes(tmp_path, SearchSettings(min_free_disk_gb=2), said.append, free=lambda _: free[0])
    assert not brakes.is_waiting()
    assert said == []
    free[0] = 2**30
    assert brakes.is_waiting()
    assert brakes.is_waiting()
    assert len(said) == 1
    assert "1.00 GB are free" in said[0]
    assert "min_free_disk_gb=2" in said[0]
    free[0] = 3 * 2**30
    assert not brakes.is_waiting()
    assert said[1:] == ["3.00 GB are free again: the sweep goes on"]


def test_what_is_free_is_what_the_disk_says(tmp_path: Path):
    assert free_bytes(tmp_path) > 0


def test_a_machine_that_only_kills_gets_no_more_trials(tmp_path: Path, said: list[str]):
    brakes = Brakes(tmp_path, SearchSettings(max_crashes_in_a_row=3), said.append)
    for _ in range(2):
        brakes.note_crash()
    brakes.note_progress()
    for _ in range(2):
        brakes.note_crash()
    assert not brakes.is_over  # four in all, never three in a row
    assert said == []
    brakes.note_crash()
    assert brakes.is_over
    assert f"--resume {tmp_path.name} --retry-failed" in said[0]
    brakes.note_progress()  # of a trial that ran on
    assert brakes.is_over
    assert len(said) == 1


def test_a_lost_node_counts_once_however_many_trials_it_took(tmp_path: Path, said: list[str]):
    brakes = Brakes(tmp_path, SearchSettings(max_crashes_in_a_row=3), said.append)
    for node in ("a", "a", "b", "a", "b"):
        brakes.note_lost_node(node)
    assert (brakes.num_crashes, brakes.is_over) == (2, False)
    brakes.note_lost_node("c")
    assert brakes.is_over
