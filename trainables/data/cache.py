"""The image cache. Every image is decoded once and stored in memory-mapped Arrow shards of uint8."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trainables.artifacts import build_once, build_unless_busy, fingerprint
from trainables.config import PreprocessingSpec
from trainables.data.problems import refuse_unusable
from trainables.data.records import Dataset, ImageRecord
from trainables.data.transforms import fit
from trainables.errors import DataError

CACHE_VERSION = 2
"""Raise this number when the same decoded image would give other pixels at the size of an encoder."""
SHARD_IMAGES = 1024
MAX_THREADS = min(8, os.cpu_count() or 1)
"""Each thread may hold a decoded image of `formats.limits.MAX_PIXELS`."""

Decoded = bytes | str
"""The pixels of an image, or the reason why it cannot be decoded."""
DecodeAll = Callable[[Dataset, PreprocessingSpec], Iterator[Decoded]]
"""Function that decodes every record of a data set, in the order of the records."""


def decode_here(dataset: Dataset, preprocessing: PreprocessingSpec) -> Iterator[Decoded]:
    """Yields every image of a data set, decoded on this machine by several threads."""
    decode = partial(_try_decode, dataset, preprocessing)
    with ThreadPoolExecutor(MAX_THREADS) as pool:
        for start in range(0, len(dataset.records), SHARD_IMAGES):
            yield from pool.map(decode, dataset.records[start : start + SHARD_IMAGES])


def decode_some(dataset: Dataset, preprocessing: PreprocessingSpec, indices: Iterable[int]) -> list[Decoded]:
    """Returns the decoded images of the records at these positions, in one thread."""
    return [_try_decode(dataset, preprocessing, dataset.records[index]) for index in indices]


def open_image_cache(
    dataset: Dataset, preprocessing: PreprocessingSpec, store: Path, decode_all: DecodeAll = decode_here
) -> ImageCache:
    """Returns the images of a data set at the size of an encoder, and decodes them if they are not cached.

    Only the fields of `preprocessing` in `fitting` matter.

    Raises:
        UnusableImages: lists the images that cannot be decoded, with file and row. Nothing is stored.
    """
    folder = build_once(
        _folder(dataset, preprocessing, store),
        lambda aside: _write_shards(dataset, preprocessing, aside, decode_all),
    )
    return ImageCache(folder, size=preprocessing.size)


def decode_unless_busy(dataset: Dataset, preprocessing: PreprocessingSpec, store: Path) -> None:
    """Fills the cache as `open_image_cache` does, but returns at once if another process is filling it."""
    build_unless_busy(
        _folder(dataset, preprocessing, store),
        lambda aside: _write_shards(dataset, preprocessing, aside, decode_here),
    )


def _folder(dataset: Dataset, preprocessing: PreprocessingSpec, store: Path) -> Path:
    key = fingerprint("image cache", CACHE_VERSION, dataset.content_fingerprint, preprocessing.fitting())
    return store / "images" / key


class ImageCache:
    """Grey images by their position in `dataset.records`. Pixels stay on disk until they are read."""

    def __init__(self, folder: Path, *, size: int) -> None:
        self.fingerprint = folder.name
        self._shards = [_open_shard(path, size) for path in sorted(folder.glob("shard-*.arrow"))]

    def __len__(self) -> int:
        return sum(len(shard) for shard in self._shards)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Returns uint8 [B, H, W] in the order of `indices`, a copy."""
        size = self._shards[0].shape[1]
        images = np.empty((len(indices), size, size), dtype=np.uint8)
        shard_of, offsets = np.divmod(np.asarray(indices), SHARD_IMAGES)
        for shard in np.unique(shard_of):
            rows = shard_of == shard
            images[rows] = self._shards[shard][offsets[rows]]
        return images


def _write_shards(
    dataset: Dataset, preprocessing: PreprocessingSpec, folder: Path, decode_all: DecodeAll
) -> dict[str, Any]:
    pixels = pa.binary(preprocessing.size**2)
    schema = pa.schema([("image_id", pa.string()), ("image", pixels)])
    reasons: dict[int, str] = {}
    decoded = decode_all(dataset, preprocessing)
    for number, start in enumerate(range(0, len(dataset.records), SHARD_IMAGES)):
        records = dataset.records[start : start + SHARD_IMAGES]
        images = list(islice(decoded, len(records)))
        reasons |= {start + i: image for i, image in enumerate(images) if isinstance(image, str)}
        if reasons:
            continue  # decode the rest too, so that one message lists every bad image
        columns = [pa.array([r.image_id for r in records]), pa.array(images, pixels)]
        path = folder / f"shard-{number:05d}.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            writer.write_batch(pa.record_batch(columns, schema=schema))
    refuse_unusable(dataset, reasons)
    return {"num_images": len(dataset.records), "size": preprocessing.size}


def _try_decode(dataset: Dataset, preprocessing: PreprocessingSpec, record: ImageRecord) -> Decoded:
    try:
        return fit(dataset.decode(record), preprocessing).tobytes()
    except DataError as error:
        return str(error)


def _open_shard(path: Path, size: int) -> np.ndarray:
    """Returns the images of a shard, uint8 [N, H, W], backed by the mapped file."""
    with pa.memory_map(str(path)) as file:
        batch = pa.ipc.open_file(file).get_batch(0)
    column = batch.column("image")
    return np.frombuffer(column.buffers()[1], dtype=np.uint8)[: len(column) * size**2].reshape(-1, size, size)
