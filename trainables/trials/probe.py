"""The trainable `probe`: fits linear probes on the embeddings of an encoder, and scores them on val."""

from __future__ import annotations

from trainables.config import TrialConfig
from trainables.context import Metrics, RunContext
from trainables.data.datasets import load_dataset
from trainables.scoring.embedding_store import read_embeddings
from trainables.scoring.judge_val import judge
from trainables.scoring.predictions import FILE, write_predictions
from trainables.scoring.probes import probe_embeddings, probe_predictions, strengths, write_probe_path
from trainables.scoring.task_systems import SYSTEMS
from trainables.training.embed_images import embedding_folder


def probe(config: TrialConfig, context: RunContext) -> Metrics:
    """Fits probes on the embeddings of the configured encoder. Computes missing embeddings first.

    Returns metrics on val with intervals. Writes the probe path and the predictions to `workdir/results`.
    Collective; rank 0 scores.
    """
    folder = embedding_folder(config, context)
    if context.rank > 0:
        return {}
    dataset, table = load_dataset(config.data), read_embeddings(folder)
    paths = probe_embeddings(table, dataset, config.probe)
    predictions = probe_predictions(paths, table, dataset)
    predictions |= SYSTEMS[dataset.task].few_shot(table, dataset, config.probe)
    folder = context.workdir / "results"
    write_probe_path(folder / "probe_path.parquet", paths, dataset.task)
    write_predictions(folder / FILE, predictions, dataset.task)
    return judge(predictions, dataset, folder) | strengths(paths)
