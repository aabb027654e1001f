"""From prompts to LoRA to probes on a few phantoms: medical encoders go the way that every encoder goes."""

from __future__ import annotations

from pathlib import Path

import pytest
from openai_checkpoints import reference, write
from published import make, write_parts

from trainables.config import from_flat
from trainables.context import LocalContext
from trainables.errors import WeightsUnavailable
from trainables.scoring.predictions import read_predictions
from trainables.trials.adapt import adapt

TRIAL = {
    "data.dataset": "phantom", "data.phantom.num_train": 12, "data.phantom.num_val": 6,
    "data.phantom.num_test": 6, "data.num_views": 1, "encoder.image_size": 64, "lora.towers": "both",
    "lora.num_blocks": None, "lora.rank": 2, "lora.dropout": 0.1, "global_batch_size": 12, "num_epochs": 1,
    "execution.micro_batch_size": 5,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chexzero", "medclip-resnet50"])
def test_a_trial_runs_from_zero_shot_to_probe(name: str, home: Path, context: LocalContext) -> None:
    if name == "chexzero":
        write(name, reference(quick_gelu=True))
    else:
        write_parts(name, make(name).parts)
    metrics = adapt(from_flat({**TRIAL, "encoder.name": name}), context)
    for system in ("zero_shot_unseen", "probe_joint", "probe_pooled"):
        assert 0 <= metrics[f"val/{system}/macro_auroc"] <= 1
    scores = read_predictions(context.workdir / "results" / "predictions.parquet")
    assert len(scores["test", "zero_shot_unseen"].scores) == 6
    frozen = adapt(from_flat({**TRIAL, "encoder.name": name, "adapt.method": "none"}), context)
    assert frozen["val/zero_shot_unseen/nll"] != metrics["val/zero_shot_unseen/nll"]


def test_a_trial_without_its_weights_has_no_score_but_a_reason(home: Path, context: LocalContext) -> None:
    with pytest.raises(WeightsUnavailable, match=r"gloria: model and vocabulary not on this machine; get "):
        adapt(from_flat({**TRIAL, "encoder.name": "gloria"}), context)
