"""The benchmark of `data check`: what it plants is planted, and found."""

from __future__ import annotations

import json
from pathlib import Path

import data_check
import numpy as np
import pytest


def test_made_up_hashes_spread_as_real_ones_and_hold_the_planted_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data_check, "NUM_EQUAL", 20)
    monkeypatch.setattr(data_check, "NUM_PAIRS", 50)
    monkeypatch.setattr(data_check, "NUM_MISSES", 10)
    hashes, planted = data_check.made_up_hashes(600, np.random.default_rng(0))
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2)[np.triu_indices(600, 1)]
    assert distances.mean() == pytest.approx(175, abs=10)
    assert distances.std() == pytest.approx(32, abs=6)
    assert sorted(map(len, planted)) == [2] * 50 + [20]
    assert (distances <= data_check.MAX_HAMMING).sum() == 50 + 20 * 19 / 2


def test_the_audit_is_a_json_row(tmp_path: Path) -> None:
    output = tmp_path / "audit.json"
    data_check.main(["audit", "--num-images", "5000", "--output", str(output)])
    result = json.loads(output.read_text())
    (row,) = result["rows"]
    assert (row["num_pairs"], row["missed"], row["others"]) == (12_497_500, 0, 0)
    assert row["seconds"] > 0
    assert str(tmp_path) not in result["command"]


@pytest.mark.slow
def test_the_command_finds_what_was_planted(tmp_path: Path) -> None:
    output = tmp_path / "check.json"
    data_check.main(["check", "--num-images", "120", "--output", str(output)])
    rows = json.loads(output.read_text())["rows"]
    assert [(row["what"], row["num_images"], row["exit_code"]) for row in rows] == [
        ("first", 120, 1),
        ("again", 120, 1),
    ]
    assert all(row["finds_the_copy"] and row["finds_the_negative"] for row in rows)
