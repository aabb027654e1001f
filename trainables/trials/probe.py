"""The trainable `probe`: linear probes on the embeddings of an encoder, judged on val."""

from __future__ import annotations

from trainables.config import TrialConfig
from trainables.context import Metrics, RunContext
from trainables.data.datasets import load_dataset
from trainables.scoring.embedding_store import read_embeddings
from trainables.scoring.few_shot import few_shot_predictions
from trainables.scoring.linear_probe import probe_embeddings, probe_predictions, strengths, write_probe_path
from trainables.scoring.predictions import FILE, judge, write_predictions
from trainables.training.embed_images import embedding_folder


def probe(config: TrialConfig, context: RunContext) -> Metrics:
    """Probes the embeddings of the config's encoder; computes them first if they are missing.

    Returns metrics on val with intervals; writes probe path and predictions into `workdir/results`.
    Collective; rank 0 judges.
    """
    folder = embedding_folder(config, context)
    if context.rank > 0:
        return {}
    dataset, table = load_dataset(config.data), read_embeddings(folder)
    paths = probe_embeddings(table, dataset, config.probe)
    predictions = probe_predictions(paths, table, dataset)
    predictions |= few_shot_predictions(table, dataset, config.probe)
    write_probe_path(context.workdir / "results" / "probe_path.parquet", paths)
    write_predictions(context.workdir / "results" / FILE, predictions)
    return judge(predictions, dataset) | strengths(paths)
