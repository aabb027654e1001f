"""The trainable `adapt`: fine-tunes an adapter, embeds every image, and scores prompts and probes on val."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from trainables.config import TrialConfig
from trainables.context import Metrics, RunContext
from trainables.deploy.leave_model import leave_model
from trainables.scoring.controls import control_scores
from trainables.scoring.judge_val import judge
from trainables.scoring.metric_names import EMBEDDINGS_REUSED, NUM_TRAINABLE, SECONDS
from trainables.scoring.predictions import FILE, write_predictions
from trainables.scoring.probes import strengths, write_probe_path
from trainables.scoring.task_systems import SYSTEMS
from trainables.training.embed_images import embed_all
from trainables.training.loop import train_adapter
from trainables.training.report_metrics import report_metrics
from trainables.training.trial_setup import TrialSetup, set_up_trial
from trainables.training.validate import Verdicts, score_everything
from trainables.trials.baseline import baseline


def adapt(config: TrialConfig, context: RunContext) -> Metrics:
    """Runs one configuration, from pixels to val metrics with intervals. Collective; rank 0 scores.

    Writes to `workdir/results`: predictions on val and test without labels, the probe path, the confusion
    matrices or the table of findings, the adapter, and the model.
    """
    if config.is_baseline:
        return baseline(config, context)
    began = time.perf_counter()
    setup = set_up_trial(config, context)
    training = train_adapter(setup, config, context)
    if context.rank > 0:
        return training
    table = embed_all(setup, context)
    verdicts = score_everything(setup, table, config, ("val", "test"))
    verdicts.predictions |= SYSTEMS[setup.dataset.task].few_shot(table, setup.dataset, config.probe)
    if config.adapt.method == "none":  # controls need no encoder; only frozen trials compute them
        verdicts.predictions |= control_scores(setup.dataset, setup.images)
    results = context.workdir / "results"
    write_results(setup, verdicts, results)
    metrics = {
        **training,
        **judge(verdicts.predictions, setup.dataset, results),
        **strengths(verdicts.probes),
        **report_metrics(setup, table, config),
        **({EMBEDDINGS_REUSED: 1.0} if table.is_reused else {}),
        NUM_TRAINABLE: float(setup.adaptation.num_trainable),
        SECONDS: time.perf_counter() - began,
    }
    leave_model(results, setup, config, verdicts, table, metrics)
    return metrics


def write_results(setup: TrialSetup, verdicts: Verdicts, folder: Path) -> None:
    """Writes the results that are not scalars to the trial's results folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_predictions(folder / FILE, verdicts.predictions, setup.dataset.task)
    write_probe_path(folder / "probe_path.parquet", verdicts.probes, setup.dataset.task)
    if setup.adapter_folder is not None:
        shutil.copytree(setup.adapter_folder, folder / "adapter")
