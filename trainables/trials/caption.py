"""The trainable `caption`: writes the captions of train images, and measures how useful they are.

A description comes from pixels (BLIP) or from masks, for images of train and val. A caption contains the
label, so only train images have captions: `data.text.sentences_of` refuses other splits. `caption` writes
both as a table. It measures how many captions are distinct, how often a batch repeats a caption, and how well
the descriptions alone predict the class. A model could learn such a shortcut without looking at the images.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.artifacts import build_once, fingerprint
from trainables.config import ProbeConfig, TrialConfig
from trainables.context import Metrics, RunContext
from trainables.data.datasets import training_set
from trainables.data.loader import global_batches
from trainables.data.records import Dataset
from trainables.data.text import captions_for
from trainables.scoring.bootstrap import Bootstrap, to_metrics
from trainables.scoring.linear_probe import Examples
from trainables.scoring.task_systems import SYSTEMS
from trainables.training.descriptions import with_descriptions

FILE = "captions.parquet"


def caption(config: TrialConfig, context: RunContext) -> Metrics:
    """Writes the captions of kind `data.captions` to the store, and returns metrics of their usefulness.

    Captions from reports are not written, because they are a patient's text.

    `<store>/captions/<key>/captions.parquet` has the columns image_id, split, description (null if the kind
    has no descriptions) and caption (for the first epoch; null for val). Collective; rank 0 does the work.
    """
    if context.rank > 0:
        return {}
    dataset = with_descriptions(training_set(config.data), config, context)
    train = dataset.indices("train")
    captions = captions_for(dataset, train, kind=config.data.captions, seed=config.seed, epoch=0)
    written = [None] * len(captions) if config.data.captions == "report" else captions
    whose = sorted(dataset.descriptions.items())
    key = fingerprint("captions", dataset.fingerprint, config.data.captions, config.seed, captions, whose)
    folder = build_once(
        context.store / "captions" / key, lambda aside: write_captions(aside, dataset, written)
    )
    (context.workdir / "captions.json").write_text(json.dumps({"folder": str(folder)}))
    return {
        **usefulness(dataset, captions),
        "train/captions/duplicate_fraction": duplicate_fraction(dataset, config),
        **shortcut(dataset),
    }


def write_captions(folder: Path, dataset: Dataset, captions: Sequence[str | None]) -> None:
    """Writes the table to a temporary folder. `captions` has one caption, or None, for each train record."""
    indices = dataset.indices("train", "val")
    records = [dataset.records[i] for i in indices]
    of_train = dict(zip(dataset.indices("train").tolist(), captions, strict=True))
    schema = pa.schema([(name, pa.string()) for name in ("image_id", "split", "description", "caption")])
    columns = {
        "image_id": [record.image_id for record in records],
        "split": [record.split for record in records],
        "description": [dataset.descriptions.get(record.image_id) for record in records],
        "caption": [of_train.get(i) for i in indices.tolist()],
    }
    pq.write_table(pa.table(columns, schema), folder / FILE)


def usefulness(dataset: Dataset, captions: list[str]) -> dict[str, float]:
    """Returns fractions: distinct captions, captions that name the class, images with descriptions."""
    train = dataset.indices("train")
    of_class = [dataset.words.of(name).pattern.lower() for name in dataset.classes]
    is_of_class = dataset.label_matrix(train) == 1
    names_class = [
        all(of_class[k] in text.lower() for k in np.flatnonzero(row))
        for row, text in zip(is_of_class, captions, strict=True)
    ]
    described = [dataset.records[i].image_id in dataset.descriptions for i in train]
    return {
        "train/captions/distinct_fraction": len(set(captions)) / len(captions),
        "train/captions/names_class_fraction": float(np.mean(names_class)),
        "train/captions/described_fraction": float(np.mean(described)),
    }


def duplicate_fraction(dataset: Dataset, config: TrialConfig) -> float:
    """Returns the fraction of pairs, over one epoch, whose caption occurs more than once in the batch."""
    lora = config.adapt.model_copy(update={"method": "lora"})  # a method that reads captions
    contrastive = config.loss.model_copy(update={"kind": "clip"})
    one_epoch = config.model_copy(update={"num_epochs": 1, "adapt": lora, "loss": contrastive})
    repeated = total = 0
    for batch in global_batches(dataset, one_epoch):
        counts = Counter(batch.captions)
        repeated += sum(count for count in counts.values() if count > 1)
        total += len(batch)
    return repeated / total


def shortcut(dataset: Dataset) -> dict[str, float]:
    """Returns metrics, with intervals by patient, of predicting the labels of val from descriptions alone.

    The classifier is logistic regression on the words that occur, with a strength chosen like the probe's.
    An image without a description has no words. This can also reveal its class, if only one class has masks.
    """
    if not dataset.descriptions:
        return {}
    indices = {split: dataset.indices(split) for split in ("train", "val")}
    texts = {split: _descriptions(dataset, rows) for split, rows in indices.items()}
    vocabulary = sorted({word for text in texts["train"] for word in text})
    train, val = (
        Examples(_occurrences(texts[split], vocabulary), dataset.targets(rows))
        for split, rows in indices.items()
    )
    path = SYSTEMS[dataset.task].fit_path(train, val, dataset.classes, ProbeConfig())
    found = Bootstrap(val.classes, dataset.patients(indices["val"])).intervals(path.val_scores)
    return to_metrics("val", "caption_words", found)


def _descriptions(dataset: Dataset, rows: np.ndarray) -> list[set[str]]:
    said: Mapping[str, str] = dataset.descriptions
    return [set(said.get(dataset.records[i].image_id, "").lower().split()) for i in rows]


def _occurrences(texts: list[set[str]], vocabulary: list[str]) -> np.ndarray:
    """Returns 1 for each word that occurs, float32 [N, V + 1]. The last column is 1 if there is any text."""
    return np.array([[word in text for word in vocabulary] + [bool(text)] for text in texts], np.float32)
