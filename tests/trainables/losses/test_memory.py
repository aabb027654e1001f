"""Memory of a step does not follow the batch. The design's bound, in fresh processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("memory_worker.py")
PROJECT = Path(__file__).parents[3]
DIMENSION, MICRO_BATCH, MIB = 32, 128, 2**20


def peak(num_pairs: int) -> int:
    """Returns the bytes of one step, less the four matrices [B, D] that it is allowed."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    # Or glibc keeps the holes of freed blocks, which grow with the number of calls and not with the step.
    environment["MALLOC_MMAP_THRESHOLD_"] = "65536"
    command = [sys.executable, str(WORKER), str(num_pairs), str(MICRO_BATCH)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(result.stdout) - 4 * num_pairs * DIMENSION * 4


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's high-water mark")
@pytest.mark.parametrize("num_pairs", [1024, pytest.param(8192, marks=pytest.mark.faults)])
def test_peak_memory_does_not_follow_the_batch(num_pairs: int) -> None:
    small = peak(128)
    assert small >= 200 * MIB  # the graph of the micro-batch: what is left must not hide behind a constant
    assert peak(num_pairs) <= 1.10 * small
