"""Draws a phantom: body, lungs, heart, bones, lesions, then the exposure of a film.

Lengths are in half image sides. x and y run from -1 to 1, y downwards; the patient's right is on the left of
the image. The parts are densities, which are added along the beam. Smooth parts are drawn at half size and
enlarged, which makes 200 images per second possible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trainables.data.phantom_fields import HALF, SIZE, Field, blob, edge, enlarge, smooth_noise
from trainables.data.phantom_lesions import Lesion, lesion_density


@dataclass(frozen=True)
class Anatomy:
    """The anatomy of a patient, which is the same in all images of this patient."""

    chest_width: float
    chest_height: float
    heart_width: float
    heart_angle: float
    mediastinum: float
    right_dome: float  # y of the diaphragm
    left_dome: float
    rib_spacing: float
    rib_phase: float
    rib_slope: float
    rib_density: float
    thickness: float
    vessels: float

    @classmethod
    def of(cls, rng: np.random.Generator) -> Anatomy:
        """Returns a random patient."""
        dome = rng.uniform(0.36, 0.52)
        return cls(
            chest_width=rng.uniform(0.58, 0.68),
            chest_height=rng.uniform(0.68, 0.78),
            heart_width=rng.uniform(0.26, 0.36),
            heart_angle=rng.uniform(0.5, 0.9),
            mediastinum=rng.uniform(0.09, 0.14),
            right_dome=dome - rng.uniform(0.02, 0.07),
            left_dome=dome,
            rib_spacing=rng.uniform(0.135, 0.165),
            rib_phase=rng.uniform(0, 1),
            rib_slope=rng.uniform(0.15, 0.40),
            rib_density=rng.uniform(0.05, 0.11),
            thickness=rng.uniform(0.85, 1.15),
            vessels=rng.uniform(0.5, 1.5),
        )


@dataclass(frozen=True)
class Exposure:
    """The exposure of a film: pose, projection and other properties that do not depend on the class."""

    angle: float
    scale: float
    shift: tuple[float, float]
    is_ap: bool  # anteroposterior, in bed: a larger heart, a higher diaphragm, more devices
    inspiration: float
    gamma: float
    window: tuple[float, float]
    noise: float
    num_devices: int
    has_marker: bool

    @classmethod
    def of(cls, rng: np.random.Generator) -> Exposure:
        """Returns a random exposure."""
        is_ap = bool(rng.random() < 0.5)
        return cls(
            angle=math.radians(rng.uniform(-8, 8)),
            scale=rng.uniform(0.9, 1.1),
            shift=(rng.uniform(-0.08, 0.08), rng.uniform(-0.08, 0.08)),
            is_ap=is_ap,
            inspiration=rng.uniform(-0.06, 0.04) - 0.04 * is_ap,
            gamma=rng.uniform(0.8, 1.35),
            window=(rng.uniform(-0.02, 0.12), rng.uniform(1.15, 1.45)),
            noise=rng.uniform(0.008, 0.025),
            num_devices=int(rng.integers(0, 4 if is_ap else 2)),
            has_marker=bool(rng.random() < 0.7),
        )


def draw(
    anatomy: Anatomy,
    exposure: Exposure,
    lesions: Sequence[Lesion],
    *,
    amplitude: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the film, uint8 [128, 128], and the lungs on it, bool [128, 128]."""
    x, y = _body_coordinates(exposure, HALF)
    heart = _heart(x, y, anatomy, exposure)
    right, left = _lungs(x, y, heart, anatomy, exposure)
    density = _soft_parts(x, y, heart, right + left, anatomy, rng)
    for lesion in lesions:
        density += amplitude * lesion_density(x, y, right, left, lesion, anatomy.chest_width, rng)
    density, lung = enlarge(density), enlarge(right + left)
    x, y = _body_coordinates(exposure, SIZE)
    density = density + _bones(x, y, anatomy) + anatomy.vessels * lung * _vessels(x, y, rng)
    return _film(density + _devices(exposure, rng), exposure, rng), lung > 0.5


def _body_coordinates(exposure: Exposure, size: int) -> tuple[Field, Field]:
    """Returns the position of each pixel of a film in an upright, centred body."""
    cos, sin = math.cos(exposure.angle) / exposure.scale, math.sin(exposure.angle) / exposure.scale
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    x, y = axis - exposure.shift[0], axis[:, None] - exposure.shift[1]
    return cos * x + sin * y, cos * y - sin * x


def _heart(x: Field, y: Field, anatomy: Anatomy, exposure: Exposure) -> Field:
    """Returns a soft mask: an ellipse whose apex points down to the patient's left."""
    width = anatomy.heart_width * (1.12 if exposure.is_ap else 1.0)
    cos, sin = math.cos(anatomy.heart_angle), math.sin(anatomy.heart_angle)
    u, v = x - 0.09, np.minimum(y - 0.22 - exposure.inspiration, 0.13)  # the heart rests on the diaphragm
    along, across = cos * u + sin * v, cos * v - sin * u
    return edge(1 - (along / width) ** 2 - (across / 0.23) ** 2, 0.35)


def _lungs(x: Field, y: Field, heart: Field, anatomy: Anatomy, exposure: Exposure) -> tuple[Field, Field]:
    """Returns soft masks of the right and the left lung."""
    side = np.abs(x)
    cage = 1 - (side / anatomy.chest_width) ** 2.5 - np.abs((y - 0.08) / anatomy.chest_height) ** 2.5
    hilum = 0.05 * np.exp(-(((y - 0.02) / 0.16) ** 2))
    air = edge(cage, 0.10) * edge(side - anatomy.mediastinum - hilum, 0.05) * (1 - heart)
    lungs = []
    for sign, dome in ((-1, anatomy.right_dome), (1, anatomy.left_dome)):
        floor = dome + exposure.inspiration + 1.5 * (sign * x - 0.28) ** 2
        lungs.append(air * edge(floor - y, 0.04) * (sign * x > 0))
    return lungs[0], lungs[1]


def _soft_parts(
    x: Field, y: Field, heart: Field, lung: Field, anatomy: Anatomy, rng: np.random.Generator
) -> Field:
    """Returns chest wall, abdomen, mediastinum and heart, minus the air in the lungs."""
    side = np.abs(x)
    shoulder = np.sqrt(np.clip((y + 1.02) / 0.42, 0, 1))
    body = edge(0.20 + 0.74 * shoulder - side, 0.06)
    spine, abdomen = np.exp(-((x / 0.12) ** 2)), edge(y - 0.42, 0.4)
    density = 0.80 * anatomy.thickness + np.maximum(np.maximum(0.16 * spine, 0.18 * heart), 0.16 * abdomen)
    density -= 0.10 * np.exp(-(((x - 0.01) / 0.045) ** 2)) * edge(-0.25 - y, 0.1)  # trachea
    density += 0.12 * blob(x, y, (0.13, -0.26), (0.08, 0.10))  # aortic knob
    density += 0.14 * blob(side, y, (anatomy.mediastinum + 0.07, 0.0), (0.08, 0.13))  # hila
    density += 0.07 * blob(side, y, (0.60, -0.35), (0.14, 0.25))  # scapulae
    density += 0.06 * smooth_noise(5, HALF, rng)  # muscle, breasts, skin folds
    return body * density - (0.55 + 0.06 * smooth_noise(4, HALF, rng)) * lung


def _bones(x: Field, y: Field, anatomy: Anatomy) -> Field:
    """Returns posterior ribs (rising towards the spine), anterior ribs, and clavicles."""
    side = np.abs(x)
    cage = edge(anatomy.chest_width + 0.02 - side, 0.16) * edge(0.62 - y, 0.2) * edge(y + 0.78, 0.1)
    behind = (y - anatomy.rib_slope * side + 0.55 * side**2) / anatomy.rib_spacing + anatomy.rib_phase
    front = (y - 0.75 * side - 0.25 * side**2) / (1.25 * anatomy.rib_spacing) + anatomy.rib_phase
    ribs = np.clip(np.cos(2 * np.pi * behind) + 0.1, 0, 1) * (0.35 + np.clip(2.5 * side, 0, 1))
    ribs += 0.5 * np.clip(np.cos(2 * np.pi * front) - 0.2, 0, 1) * np.clip(2.5 * side - 0.4, 0, 1)
    off_clavicle = np.abs(y + 0.52 + 0.25 * side - 0.30 * side**2)
    clavicles = edge(0.035 - off_clavicle, 0.03) * edge(0.72 - side, 0.1) * edge(side - 0.08, 0.05)
    return anatomy.rib_density * (ribs * cage + 1.3 * clavicles)


def _vessels(x: Field, y: Field, rng: np.random.Generator) -> Field:
    """Returns vessels, branching lines that get thinner away from the hila: the ridges of smooth noise."""
    ridges = np.clip(1 - np.abs(smooth_noise(14, SIZE, rng)) / 0.25, 0, 1)
    return 0.10 * ridges * np.exp(-(((np.abs(x) - 0.18) / 0.30) ** 2) - ((y - 0.05) / 0.40) ** 2)


def _devices(exposure: Exposure, rng: np.random.Generator) -> Field:
    """Returns catheters, electrodes and a side marker: dense objects that do not depend on the class."""
    canvas = Image.new("L", (2 * SIZE, 2 * SIZE))  # drawn at twice the size to get smooth edges
    pen, unit = ImageDraw.Draw(canvas), 2 * SIZE
    for _ in range(exposure.num_devices):
        start, bend = rng.uniform((0.1, 0.0), (0.9, 0.1)), rng.uniform((0.15, 0.15), (0.85, 0.5))
        end, grey = rng.uniform((0.3, 0.35), (0.7, 0.75)), int(rng.integers(60, 180))
        t = np.linspace(0, 1, 16)[:, None]
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        pen.line((curve * unit).ravel().tolist(), fill=grey, width=int(rng.integers(1, 4)))
        if rng.random() < 0.5:
            pen.circle((end * unit).tolist(), radius=int(rng.integers(3, 6)), fill=grey)
    if exposure.has_marker:
        corner = (rng.choice([0.06, 0.82]) + rng.uniform(-0.02, 0.04), rng.uniform(0.03, 0.12))
        text = str(rng.choice(["L", "R", "AP", "PA", "SUP"]))
        pen.text((corner[0] * unit, corner[1] * unit), text, fill=int(rng.integers(120, 255)), font=_font())
    return np.asarray(canvas.reduce(2), dtype=np.float32) * (0.8 / 255)


@cache
def _font() -> ImageFont.ImageFont:
    return ImageFont.load_default_imagefont()  # a bitmap: the same letters with every FreeType


def _film(density: Field, exposure: Exposure, rng: np.random.Generator) -> np.ndarray:
    low, high = exposure.window
    value = np.clip((density - low) / (high - low), 0, 1) ** exposure.gamma
    value += exposure.noise * rng.standard_normal(value.shape, dtype=np.float32)
    return np.rint(255 * np.clip(value, 0, 1)).astype(np.uint8)
