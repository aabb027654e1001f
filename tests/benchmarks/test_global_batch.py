"""The side-by-side step benchmark on its tiny model: one gradient for all, and a whole record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import clip_step
import global_batch
import measure
import memory_plot
import pytest
import random_encoders
import torch

SMALL = "--model tiny --batch 8 --micro-batch 3 --tokens 8 --rounds 1 --no-memory --contenders"
FIELDS = {"benchmark", "command", "date", "commit", "machine", "versions", "settings", "rows", "cpu_seconds"}


def run(folder: Path, *contenders: str) -> dict[str, Any]:
    global_batch.main([*SMALL.split(), *contenders, "--output", str(folder / "step.json")])
    return json.loads((folder / "step.json").read_text())


def test_all_contenders_compute_one_gradient_and_the_record_is_whole(tmp_path: Path) -> None:
    result = run(tmp_path, "plain", "gradient_caching", "ours")
    assert set(result) >= FIELDS
    assert str(tmp_path) not in json.dumps(result)  # no place on this machine
    rows = {row["contender"]: row for row in result["rows"]}
    assert set(rows) == {"plain", "gradient_caching", "ours"} == set(result["cpu_seconds"][0])
    assert all(row["max_relative_gradient_difference"] < 1e-5 for row in rows.values())  # float32
    assert rows["ours"]["time_over_plain"]["median"] > 0
    # 8 pairs in micro-batches of 3: the caching encodes all twice, we keep the graph of 3 images.
    assert rows["plain"]["forwards_per_pair"] == {"image": 1, "text": 1}
    assert rows["gradient_caching"]["forwards_per_pair"] == {"image": 2, "text": 2}
    assert rows["ours"]["forwards_per_pair"] == {"image": 13 / 8, "text": 2}


@pytest.mark.parametrize("name", ["open_clip", "sentence_transformers"])
def test_a_peer_computes_the_same_gradient(name: str) -> None:
    contender = clip_step.CONTENDERS[name]
    if not contender.is_installed:
        pytest.skip(f"{contender.package} is not installed (extra 'bench')")
    bench = global_batch.Bench(global_batch.parse([*SMALL.split(), "plain"]))
    assert global_batch.gradient_differences(bench, [name])[name] < 1e-5


def test_a_peer_that_is_not_installed_is_a_row_without_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = clip_step.Contender(clip_step.open_clip, package="no_such_package")
    monkeypatch.setitem(clip_step.CONTENDERS, "open_clip", absent)
    result = run(tmp_path, "open_clip")
    assert result["rows"] == [{"contender": "open_clip", "status": "not installed"}]


def test_one_encoder_serves_both_kinds_of_dropout() -> None:
    encoder, _ = random_encoders.build_encoder("tiny", dropout=0.1, seed=0)
    switch = clip_step.DropoutSwitch(encoder)
    assert len(switch.layers) == 2 * 3 * 4  # towers, layers, targets
    batch = clip_step.Batch.random(encoder, pairs=2, captions=2, tokens=8, seed=0)
    step = clip_step.Step(encoder, [], batch, micro_batch_size=2, kept_graphs=1, seed=0)
    for kind, repeats in (("ordinary", False), ("none", True), ("counter", True)):
        switch.turn_to(kind)
        clip_step.set_dropout_rows(encoder, seed=0, step=0, text_rows=range(2))
        with torch.no_grad():
            first, second = (step.texts(slice(0, 2)) for _ in range(2))
        assert torch.equal(first, second) is repeats, kind


def test_the_encoder_in_bfloat16_is_compared_without_dropout_too() -> None:
    bench = global_batch.Bench(global_batch.parse([*SMALL.split(), "ours_bfloat16"]))
    assert 1e-6 < global_batch.gradient_differences(bench, ["ours_bfloat16"])["ours_bfloat16"] < 0.1


def test_interval_encloses_the_median_with_95_percent_or_is_absent() -> None:
    assert measure.median_interval(range(5)) is None  # 1 - 2 / 2⁵ = 93.75 %
    assert measure.median_interval(range(7)) == (0, 6)  # 98.4 %
    assert measure.median_interval(range(9)) == (1, 7)  # 96.1 %


def test_the_picture_is_drawn_from_stored_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra 'bench')")
    rows = [{"contender": "ours", "batch": b, "mib": 300.0, "weights_mib": 600.0} for b in (16, 32)]
    rows += [{"contender": "plain", "batch": 16, "mib": 1500.0, "weights_mib": 600.0}]
    rows += [{"contender": "plain", "batch": 32, "skipped": "does not fit in 2000 MiB"}]
    settings = {"model": "tiny", "micro_batch": 8, "tokens": 24}
    result = {"memory_over_batch": rows, "settings": settings, "date": "2026-01-01"}
    memory_plot.draw(result, tmp_path / "memory.svg")
    assert "B = 32 did not fit" in (tmp_path / "memory.svg").read_text()
