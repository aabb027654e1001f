"""The survey of a data set. Every image is decoded once, and the facts that `data check` needs are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.artifacts import build_once, fingerprint
from trainables.config import PreprocessingSpec
from trainables.data.cache import CACHE_VERSION, MAX_THREADS, SHARD_IMAGES
from trainables.data.formats.decode import FileDecoder
from trainables.data.problems import refuse_unusable
from trainables.data.records import Dataset, ImageRecord
from trainables.data.transforms import fit
from trainables.errors import DataError

SURVEY_VERSION = 2
"""Raise this number when the same image would give other facts."""
THUMBNAIL = PreprocessingSpec(size=64, crop="none")
"""Squashed, so that it shows the whole image, and a squashed copy has the same thumbnail as its original."""
BORDER_FRACTION = 0.1
"""Width of the border as a fraction of the shorter side."""
CENTRE_FRACTION = 1 / 3
"""Height and width of the centre as fractions of those of the image."""
FACTS = ("height", "width", "mean", "border", "centre")
SCHEMA = pa.schema(
    [
        *((name, pa.int32()) for name in FACTS[:2]),
        *((name, pa.float32()) for name in FACTS[2:]),
        *((name, pa.string()) for name in ("format", "greys")),
        ("warnings", pa.list_(pa.string())),
        ("digest", pa.binary(16)),
        ("thumbnail", pa.binary(THUMBNAIL.size**2)),
    ]
)
"""Columns of the stored table. Rows are in the order of the records, so no id is stored."""

Facts = dict[str, Any]
"""The facts of one image: a value for each column of `SCHEMA`."""
Examine = Callable[[Dataset], Iterator[Facts | str]]
"""Function that yields, for every record in order, its facts or the reason why it cannot be decoded."""


@dataclass(frozen=True)
class Survey:
    """The facts of all images of a data set, in the order of the records. Thumbnails stay on disk.

    Means are of the decoded 8-bit image. `digests` are equal for images with equal pixels.
    """

    file: Path
    height: np.ndarray  # int32 [N], pixels
    width: np.ndarray  # int32 [N], pixels
    mean: np.ndarray  # float32 [N], grey levels, 0 to 255
    border: np.ndarray  # float32 [N], mean of the border
    centre: np.ndarray  # float32 [N], mean of the centre
    formats: list[str | None]  # such as "PNG"; None = the image does not come from a file of its own
    greys: list[str | None]  # how the greys were chosen, such as "window 550/1024"
    warnings: list[list[str]]  # what the decoder warns of, such as "its header says hip, not chest"
    digests: list[bytes]

    def __len__(self) -> int:
        return len(self.digests)

    def thumbnails(self) -> Iterator[np.ndarray]:
        """Yields the thumbnails of all images, in batches of uint8 [B, 64, 64]."""
        for batch in pq.ParquetFile(self.file).iter_batches(SHARD_IMAGES, columns=["thumbnail"]):
            pixels = b"".join(batch.column("thumbnail").to_pylist())
            yield np.frombuffer(pixels, np.uint8).reshape(-1, THUMBNAIL.size, THUMBNAIL.size)


def open_survey(dataset: Dataset, store: Path, examine: Examine | None = None) -> Survey:
    """Returns the survey of a data set, and decodes the images if it is not stored.

    Raises:
        UnusableImages: lists the images that cannot be decoded. Nothing is stored.
    """
    key = fingerprint("survey", SURVEY_VERSION, CACHE_VERSION, dataset.content_fingerprint)
    folder = build_once(
        store / "surveys" / key, lambda aside: _write(dataset, aside, examine or examine_here)
    )
    file = folder / "survey.parquet"
    table = pq.read_table(file, columns=[name for name in SCHEMA.names if name != "thumbnail"])
    return Survey(
        file=file,
        **{name: table.column(name).to_numpy() for name in FACTS},
        formats=table.column("format").to_pylist(),
        greys=table.column("greys").to_pylist(),
        warnings=table.column("warnings").to_pylist(),
        digests=table.column("digest").to_pylist(),
    )


def examine_here(dataset: Dataset) -> Iterator[Facts | str]:
    """Yields the facts of every image, decoded on this machine by several threads."""
    look = partial(_try_examine, dataset)
    with ThreadPoolExecutor(MAX_THREADS) as pool:
        for start in range(0, len(dataset.records), SHARD_IMAGES):
            yield from pool.map(look, dataset.records[start : start + SHARD_IMAGES])


def facts_of(image: np.ndarray) -> Facts:
    """Returns the facts about the pixels of a decoded image, uint8 [H, W]."""
    height, width = image.shape
    depth = max(1, round(BORDER_FRACTION * min(image.shape)))
    inside = image[depth:-depth, depth:-depth]
    top, left = (round(side * (1 - CENTRE_FRACTION) / 2) for side in image.shape)
    total, of_inside = int(image.sum(dtype=np.int64)), int(inside.sum(dtype=np.int64))
    shape = np.array(image.shape, dtype=np.int64).tobytes()
    return {
        "height": height,
        "width": width,
        "mean": total / image.size,
        "border": (total - of_inside) / (image.size - inside.size),
        "centre": float(image[top : height - top, left : width - left].mean()),
        "digest": hashlib.sha256(shape + image.tobytes()).digest()[:16],
        "thumbnail": fit(image, THUMBNAIL).tobytes(),
    }


def _try_examine(dataset: Dataset, record: ImageRecord) -> Facts | str:
    try:
        if not isinstance(dataset.decode, FileDecoder):
            return facts_of(dataset.decode(record)) | {"format": None, "greys": None, "warnings": []}
        image = dataset.decode.image(record)
    except DataError as error:
        return str(error)
    known = {"format": image.format, "greys": image.greys, "warnings": list(image.warnings)}
    return facts_of(image.pixels) | known


def _write(dataset: Dataset, folder: Path, examine: Examine) -> dict[str, Any]:
    reasons: dict[int, str] = {}
    examined = examine(dataset)
    with pq.ParquetWriter(folder / "survey.parquet", SCHEMA) as writer:
        for start in range(0, len(dataset.records), SHARD_IMAGES):
            found = list(islice(examined, SHARD_IMAGES))
            reasons |= {start + i: each for i, each in enumerate(found) if isinstance(each, str)}
            if not reasons:  # else decode the rest too, so that one message lists every bad image
                writer.write_table(pa.Table.from_pylist(found, SCHEMA))
    refuse_unusable(dataset, reasons)
    return {"num_images": len(dataset.records)}
