"""Measures what reports add to a trial: retrieval on val, and the share of texts that the encoder cuts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch

from trainables.config import TrialConfig
from trainables.context import Metrics
from trainables.data.reports.read import retrieval_text
from trainables.data.text import captions_for
from trainables.models.encoders.dual_encoder import DualEncoder
from trainables.scoring.embedding_store import EmbeddingTable
from trainables.scoring.metric_names import CUT_CAPTIONS, CUT_REPORTS, NUM_REPORTS
from trainables.scoring.retrieval import distinct, retrieval_metrics
from trainables.training.trial_setup import TrialSetup

logger = logging.getLogger(__name__)
MAX_COUNTED = 2_000
"""Texts of which the share that is cut is measured, evenly over the data set."""


def report_metrics(setup: TrialSetup, table: EmbeddingTable, config: TrialConfig) -> Metrics:
    """Returns the metrics of reports; {} for a data set without reports, or a trial that reads no text."""
    if not config.reads_words:
        return {}
    dataset, metrics = setup.dataset, dict[str, float]()
    if config.reads_reports:
        trained = setup.training.dataset
        captions = captions_for(trained, trained.indices("train"), kind="report", seed=config.seed, epoch=0)
        metrics[CUT_CAPTIONS] = cut_fraction(setup.encoder, captions)
        if metrics[CUT_CAPTIONS]:
            logger.warning(
                "%.0f %% of the captions are longer than the text encoder reads; lower data.report_sentences",
                100 * metrics[CUT_CAPTIONS],
            )
    said = {int(i): retrieval_text(dataset.records[i].report_text) for i in dataset.indices("val")}
    val, texts, text_of_image = distinct({i: text for i, text in said.items() if text is not None})
    if len(texts) < 2:  # nothing to choose from
        return metrics
    rows = table.rows_of(np.array([dataset.records[i].image_id for i in val]))
    embeddings = setup.embed_texts(texts).cpu().numpy()
    metrics |= {NUM_REPORTS: float(len(texts)), CUT_REPORTS: cut_fraction(setup.encoder, texts)}
    return metrics | retrieval_metrics(table.joint[rows], embeddings, text_of_image, dataset.patients(val))


def cut_fraction(encoder: DualEncoder, texts: Sequence[str]) -> float:
    """Returns the fraction of texts whose end the encoder does not read, of at most `MAX_COUNTED` texts.

    The end is not read if the tokens stay the same without the last word, and with one word more.
    """
    some = list(texts[:: -(-len(texts) // MAX_COUNTED)])
    shorter, longer = [text.rpartition(" ")[0] for text in some], [f"{text} heart" for text in some]
    ids = encoder.tokenize([*some, *shorter, *longer]).input_ids.reshape(3, len(some), -1)
    is_cut = torch.logical_and((ids[0] == ids[1]).all(1), (ids[0] == ids[2]).all(1))
    return float(is_cut.float().mean())
