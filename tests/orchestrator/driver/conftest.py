"""Fixtures that tests of the driver share."""

from __future__ import annotations

import pytest
from sweep_process import run_driver
from walk_sweep import WALK, sweep_of, walk_space

from orchestrator.storage.ledger import SweepState


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> SweepState:
    home = tmp_path_factory.mktemp("clean") / "home"
    assert run_driver(home, walk_space(1, 2, 3), **WALK)["exit_code"] == 0
    return sweep_of(home)
