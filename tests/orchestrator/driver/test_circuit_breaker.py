"""When trials have to wait, and when no more of them are started."""

from pathlib import Path

import pytest

from orchestrator.driver.circuit_breaker import CircuitBreaker, free_bytes
from orchestrator.search.space import SearchSettings

RESUME = "orchestrator sweep --resume NAME --storage URI"


@pytest.fixture
def said() -> list[str]:
    return []


def test_low_space_is_said_once_each_way_and_passes(tmp_path: Path, said: list[str]):
    free = [3 * 2**30]
    circuit_breaker = CircuitBreaker(
        tmp_path, SearchSettings(min_free_disk_gb=2), said.append, RESUME, free=lambda _: free[0]
    )
    assert not circuit_breaker.is_waiting()
    assert said == []
    free[0] = 2**30
    assert circuit_breaker.is_waiting()
    assert circuit_breaker.is_waiting()
    assert len(said) == 1
    assert "1.00 GB are free" in said[0]
    assert "min_free_disk_gb=2" in said[0]
    free[0] = 3 * 2**30
    assert not circuit_breaker.is_waiting()
    assert said[1:] == ["3.00 GB are free again: the sweep continues"]


def test_what_is_free_is_what_the_disk_says(tmp_path: Path):
    assert free_bytes(tmp_path) > 0


def test_a_machine_that_only_kills_gets_no_more_trials(tmp_path: Path, said: list[str]):
    circuit_breaker = CircuitBreaker(tmp_path, SearchSettings(max_crashes_in_a_row=3), said.append, RESUME)
    for _ in range(2):
        circuit_breaker.note_crash()
    circuit_breaker.note_progress()
    for _ in range(2):
        circuit_breaker.note_crash()
    assert not circuit_breaker.is_over  # four in all, never three in a row
    assert said == []
    circuit_breaker.note_crash()
    assert circuit_breaker.is_over
    assert f"{RESUME} --retry-failed" in said[0]
    circuit_breaker.note_progress()  # of a trial that ran on
    assert circuit_breaker.is_over
    assert len(said) == 1


def test_a_lost_node_counts_once_however_many_trials_it_took(tmp_path: Path, said: list[str]):
    circuit_breaker = CircuitBreaker(tmp_path, SearchSettings(max_crashes_in_a_row=3), said.append, RESUME)
    for node in ("a", "a", "b", "a", "b"):
        circuit_breaker.note_lost_node(node)
    assert (circuit_breaker.num_crashes, circuit_breaker.is_over) == (2, False)
    circuit_breaker.note_lost_node("c")
    assert circuit_breaker.is_over
