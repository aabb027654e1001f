"""The code that trains and scores. A trainable is a function of `(config, context)`, and needs no Ray."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.references import resolve as resolve

if TYPE_CHECKING:
    from trainables.deploy.predictor import Model

TRAINABLES: dict[str, str] = {
    "adapt": "trainables.trials.adapt:adapt",
    "finetune": "trainables.trials.finetune:finetune",
    "embed": "trainables.trials.embed:embed",
    "probe": "trainables.trials.probe:probe",
    "zero_shot": "trainables.trials.zero_shot:zero_shot",
    "caption": "trainables.trials.caption:caption",
    "baseline": "trainables.trials.baseline:baseline",
    "evaluate": "trainables.trials.evaluate:evaluate",
}


def load_model(
    folder: str | os.PathLike[str], *, device: str = "cpu", store: str | os.PathLike[str] | None = None
) -> Model:
    """Loads the model that a trial left, such as `SWEEP/trials/KEY/results/model`.

    Every file is compared with the manifest of the folder. The public weights are found by their name.

    Args:
        folder: folder of the model.
        device: `cpu` or `cuda:N`.
        store: folder for what a family of encoders computes from its weights; None = that of the user's home.

    Raises:
        DataError: a file has changed, or the weights here are not those of the model.
        WeightsUnavailable: the public weights are not on this machine.
    """
    # By name: importing `trainables` loads no torch, which takes seconds.
    load = resolve("trainables.deploy.predictor:load_model")
    return load(Path(folder), device=device, store=None if store is None else Path(store))
