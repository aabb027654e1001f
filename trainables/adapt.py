"""The main trial: fine-tune an adapter, embed every image, ask by prompts and by probes, judge on val."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np

from trainables.audit import control_scores
from trainables.config import TrialConfig
from trainables.context import Metrics, RunContext
from trainables.embed import embed_all
from trainables.finetune import train_adapter
from trainables.materials import Materials, open_materials
from trainables.metrics import confusion_matrix
from trainables.predictions import FILE, judge, write_predictions
from trainables.probe import write_probe_path
from trainables.validate import Verdicts, score_everything


def adapt(config: TrialConfig, context: RunContext) -> Metrics:
    """Runs one configuration from pixels to val metrics with intervals. Collective; rank 0 judges.

    Writes into `workdir/results`: predictions of val and test (no labels), probe path, confusion matrices,
    adapter.
    """
    began = time.perf_counter()
    materials = open_materials(config, context)
    training = train_adapter(materials, config, context)
    if context.rank > 0:
        return training
    verdicts = score_everything(materials, embed_all(materials, context), config, ("val", "test"))
    if config.adapt.method == "none":  # the controls need no encoder: they stand beside the frozen one
        verdicts.predictions |= control_scores(materials.dataset, materials.images)
    write_results(materials, verdicts, context.workdir / "results")
    return {
        **training,
        **judge(verdicts.predictions, materials.dataset),
        **{f"val/probe_{name}/l2": path.l2 for name, path in verdicts.probes.items()},
        "perf/num_trainable_parameters": float(materials.adaptation.num_trainable),
        "perf/seconds": time.perf_counter() - began,
    }


def write_results(materials: Materials, verdicts: Verdicts, folder: Path) -> None:
    """Leaves all that is not a scalar in the trial's results folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_predictions(folder / FILE, verdicts.predictions)
    write_probe_path(folder / "probe_path.parquet", verdicts.probes)
    dataset = materials.dataset
    classes = dataset.class_indices(dataset.indices("val"))
    confusion = {
        system: {
            "classes": list(dataset.classes),
            "val": confusion_matrix(np.asarray(scores.scores), classes).tolist(),
        }
        for (split, system), scores in verdicts.predictions.items()
        if split == "val"
    }
    (folder / "confusion.json").write_text(json.dumps(confusion, indent=1))
    if materials.adapter_folder is not None:
        shutil.copytree(materials.adapter_folder, folder / "adapter")
