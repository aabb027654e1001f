"""Thumbnails of a survey as pictures for a page: JPEG in data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from trainables.data.survey import Survey

JPEG_QUALITY = 85
LONGER_SIDE = 112  # pixels on the page


@dataclass(frozen=True)
class Picture:
    """A picture for a page. The stored pixels are square; `width` and `height` give the true proportions."""

    uri: str
    width: int
    height: int


def pictures(survey: Survey, indices: Collection[int]) -> dict[int, Picture]:
    """Returns the pictures of the images at these positions."""
    found: dict[int, Picture] = {}
    for index, thumbnail in _thumbnails(survey, indices).items():
        height, width = int(survey.height[index]), int(survey.width[index])
        scale = LONGER_SIDE / max(height, width)
        found[index] = Picture(
            data_uri(thumbnail), max(1, round(scale * width)), max(1, round(scale * height))
        )
    return found


def median_picture(survey: Survey, indices: Sequence[int]) -> Picture:
    """Returns the median of the images at these positions as a square picture."""
    median = np.median(np.stack(list(_thumbnails(survey, indices).values())), axis=0)
    return Picture(data_uri(median.round().astype(np.uint8)), LONGER_SIDE, LONGER_SIDE)


def data_uri(image: np.ndarray) -> str:
    """Returns an image uint8 [H, W] as a JPEG in a data URI."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _thumbnails(survey: Survey, indices: Collection[int]) -> dict[int, np.ndarray]:
    """Returns the thumbnails uint8 [64, 64] at these positions. Reads the batches once, in order."""
    wanted, start = np.unique(np.fromiter(indices, np.int64, len(indices))), 0
    found: dict[int, np.ndarray] = {}
    for batch in survey.thumbnails():
        inside = wanted[(wanted >= start) & (wanted < start + len(batch))]
        found |= {index: batch[index - start] for index in inside.tolist()}
        start += len(batch)
    return found
