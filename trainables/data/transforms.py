"""Transforms of uint8 pixels: fitting to the size of the encoder, and light augmentation."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from trainables.config import PreprocessingSpec
from trainables.data.counter_rng import counter_rng

MAX_ROTATION_DEGREES = 7.0
MIN_CROP_FRACTION = 0.85
"""Fraction of the side. Images are not flipped, because the heart is on the left."""
MAX_CONTRAST_CHANGE = 0.2
MAX_BRIGHTNESS_CHANGE = 0.1
"""Fraction of the full range of 255."""

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}


def fit(image: np.ndarray, spec: PreprocessingSpec) -> np.ndarray:
    """Returns an image uint8 [H, W] as uint8 [size, size]: windowed, padded, resized and cropped by `spec`.

    By default the shorter side is resized to `size`, and the centre is cropped. Images are squashed only for
    encoders trained on squashed images, because squashing shows the aspect ratio, which can reveal the
    source.
    """
    if spec.window == "full":
        image = _stretched(image)
    if spec.pad == "before":
        image = _on_black_square(image, at_least=spec.size)
    is_resized_twice = spec.crop == "none" and spec.pad == "after"
    if spec.crop == "center" or is_resized_twice:
        sides = image.shape
        kept = max(sides) if spec.pad == "after" else min(sides)
        # as in torchvision (Resize, CenterCrop), with which the encoders were trained
        target = round(spec.size * spec.oversize)
        height, width = (max(1, int(target * side / kept)) for side in sides)
        image = _resized(image, height, width, spec.interpolation)
    if spec.pad == "after":
        image = _on_black_square(image)
    if spec.crop == "none":
        second = "bicubic" if is_resized_twice else spec.interpolation
        return _resized(image, spec.size, spec.size, second)
    top, left = (round((side - spec.size) / 2) for side in image.shape)
    return image[top : top + spec.size, left : left + spec.size]


def _resized(image: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), _RESAMPLING[interpolation]))


def _stretched(image: np.ndarray) -> np.ndarray:
    low, high = int(image.min()), int(image.max())
    if high == low:
        return np.zeros_like(image)
    return ((image.astype(np.float32) - low) * (255 / (high - low))).astype(np.uint8)


def _on_black_square(image: np.ndarray, *, at_least: int = 0) -> np.ndarray:
    side = max(*image.shape, at_least)
    square = np.zeros((side, side), dtype=np.uint8)
    top, left = ((side - length) // 2 for length in image.shape)
    square[top : top + image.shape[0], left : left + image.shape[1]] = image
    return square


def view_of(seed: int, epoch: int, image_index: int, num_views: int) -> int:
    """Returns the number of an image's view in this epoch; `num_views` = 0 gives a new view each epoch."""
    if num_views == 0:
        return epoch
    return int(counter_rng("view", seed, epoch, image_index).integers(num_views))


def augment(image: np.ndarray, *, seed: int, view: int, image_index: int) -> np.ndarray:
    """Returns a view of an image, uint8 [H, W], which depends only on (seed, view, image_index).

    View 0 is the unchanged image, so training and evaluation can share its activations. Other views are
    rotated, cropped and changed in contrast and brightness.
    """
    if view == 0:
        return image
    rng = counter_rng("augment", seed, view, image_index)
    angle = math.radians(rng.uniform(-MAX_ROTATION_DEGREES, MAX_ROTATION_DEGREES))
    crop = rng.uniform(MIN_CROP_FRACTION, 1.0)
    shift = rng.uniform(-0.5, 0.5, size=2) * (1 - crop)
    contrast = 1 + rng.uniform(-MAX_CONTRAST_CHANGE, MAX_CONTRAST_CHANGE)
    brightness = 255 * rng.uniform(-MAX_BRIGHTNESS_CHANGE, MAX_BRIGHTNESS_CHANGE)
    values = _rotated_crop(image, angle=angle, crop=crop, shift=shift).astype(np.float32)
    mean = values.mean()
    return np.clip((values - mean) * contrast + mean + brightness, 0, 255).round().astype(np.uint8)


def _rotated_crop(image: np.ndarray, *, angle: float, crop: float, shift: np.ndarray) -> np.ndarray:
    """Rotates and crops an image in one resampling. Corners from outside are black, like air."""
    height, width = image.shape
    cos, sin = crop * math.cos(angle), crop * math.sin(angle)
    middle_x, middle_y = width / 2, height / 2
    source_x, source_y = middle_x + shift[0] * width, middle_y + shift[1] * height
    inverse = (  # maps an output pixel to a source pixel
        *(cos, sin, source_x - cos * middle_x - sin * middle_y),
        *(-sin, cos, source_y + sin * middle_x - cos * middle_y),
    )
    turned = Image.fromarray(image).transform(
        (width, height), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR
    )
    return np.asarray(turned)
