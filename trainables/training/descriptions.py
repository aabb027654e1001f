"""Describes train and val images in words, from pixels (BLIP) or from masks, without using labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.artifacts import build_once, fingerprint
from trainables.config import TrialConfig
from trainables.context import RunContext
from trainables.data.cache import open_image_cache
from trainables.data.masks import describe_record
from trainables.data.records import Dataset
from trainables.models.catalogue.captioners import captioner_fingerprint, captioner_folder

FILE = "captions.parquet"
VERSION = 1
"""Raise this number when the same image or mask would get another description."""
DESCRIBED = ("blip_label", "mask_finding")
ROWS_AT_ONCE = 64
Describe = Callable[[np.ndarray], list[str]]
"""Function that returns N sentences for the images at N positions of a data set, int64 [N]."""
DescribeAll = Callable[[Dataset, np.ndarray, TrialConfig, RunContext], Iterator[str]]
"""Function that yields a sentence per image, in the given order, by the captioner of a configuration."""


def open_captioner(dataset: Dataset, config: TrialConfig, context: RunContext) -> Describe:
    """Loads BLIP, and the images at BLIP's size."""
    from trainables.models.encoders.blip import Captioner  # imported here because it loads torch

    captioner = Captioner(config.captioner, context.device)
    images = open_image_cache(dataset, captioner.preprocessing, context.store)
    return lambda indices: list(captioner.describe(images.images(indices)))


def describe_here(
    dataset: Dataset, indices: np.ndarray, config: TrialConfig, context: RunContext
) -> Iterator[str]:
    """Yields descriptions of images, computed in this process."""
    describe = open_captioner(dataset, config, context)
    for rows in np.split(indices, range(ROWS_AT_ONCE, len(indices), ROWS_AT_ONCE)):
        yield from describe(rows)


def with_descriptions(
    dataset: Dataset, config: TrialConfig, context: RunContext, describe_all: DescribeAll = describe_here
) -> Dataset:
    """Returns the data set, with descriptions if the captions need them; computes missing descriptions.

    `describe_all` runs BLIP. It may run elsewhere; the words are the same.
    """
    if config.data.captions == "blip_label":
        return replace(dataset, descriptions=describe_by_model(dataset, config, context, describe_all))
    if config.data.captions == "mask_finding":
        return replace(dataset, descriptions=describe_by_masks(dataset))
    return dataset


def describe_by_masks(dataset: Dataset) -> dict[str, str]:
    """Returns image_id → description of the infection mask, for train and val images with a mask."""
    said = {record.image_id: describe_record(record) for record in dataset.records if record.split != "test"}
    return {image_id: sentence for image_id, sentence in said.items() if sentence is not None}


def describe_by_model(
    dataset: Dataset, config: TrialConfig, context: RunContext, describe_all: DescribeAll = describe_here
) -> dict[str, str]:
    """Returns image_id → sentence by BLIP, for all train and val images; reads the store if possible."""
    captioner_folder(config.captioner)  # raised before the Hub is asked for a fingerprint
    indices = dataset.indices("train", "val")
    image_ids = [dataset.records[i].image_id for i in indices]
    key = fingerprint(
        "descriptions",
        VERSION,
        dataset.content_fingerprint,
        image_ids,
        captioner_fingerprint(config.captioner),
    )

    def build(aside: Path) -> dict[str, Any]:
        sentences = list(describe_all(dataset, indices, config, context))
        pq.write_table(pa.table({"image_id": image_ids, "description": sentences}), aside / FILE)
        return {"captioner": config.captioner.model_dump(mode="json")}

    folder = context.store / "descriptions" / key
    context.fetch(folder)
    table = pq.read_table(build_once(folder, build) / FILE)
    context.keep(folder)
    return dict(zip(table["image_id"].to_pylist(), table["description"].to_pylist(), strict=True))
