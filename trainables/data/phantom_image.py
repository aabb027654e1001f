"""How a phantom is drawn: body, lungs, heart, bones, a lesion, then the exposure of a film.

Lengths are in half image sides: x and y run from -1 to 1, y downwards, the patient's right on the left of the
image. What is drawn are optical densities that add up along the beam; smooth parts are drawn at half size and
enlarged, which is what makes 200 images a second possible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128
HALF = SIZE // 2
Side = Literal["right", "left"]
Zone = Literal["upper", "mid", "lower"]
_SIGN = {"right": -1.0, "left": 1.0}
_ZONE_Y = {"upper": -0.3, "mid": 0.0, "lower": 0.28}

Field = np.ndarray  # float32 [H, W]


@dataclass(frozen=True)
class Lesion:
    """What a radiologist would report. `extent` and `density` are factors around 1."""

    kind: Literal["none", "ground_glass", "focal"]
    side: Side = "right"  # focal: the affected one; ground glass: the worse one
    zone: Zone = "lower"
    has_consolidation: bool = False
    has_effusion: bool = False


@dataclass(frozen=True)
class Anatomy:
    """One patient: the same in all of their images."""

    chest_width: float
    chest_height: float
    heart_width: float
    heart_tilt: float
    mediastinum: float
    diaphragm: tuple[float, float]  # y of the dome, right and left
    rib_spacing: float
    rib_phase: float
    rib_slope: float
    rib_density: float
    thickness: float
    vessels: float

    @classmethod
    def of(cls, rng: np.random.Generator) -> Anatomy:
        """Draws a patient."""
        dome = rng.uniform(0.42, 0.54)
        return cls(
            chest_width=rng.uniform(0.60, 0.70),
            chest_height=rng.uniform(0.74, 0.84),
            heart_width=rng.uniform(0.24, 0.34),
            heart_tilt=rng.uniform(0.3, 0.7),
            mediastinum=rng.uniform(0.10, 0.16),
            diaphragm=(dome - rng.uniform(0.02, 0.07), dome),
            rib_spacing=rng.uniform(0.135, 0.165),
            rib_phase=rng.uniform(0, 1),
            rib_slope=rng.uniform(0.15, 0.40),
            rib_density=rng.uniform(0.05, 0.11),
            thickness=rng.uniform(0.85, 1.15),
            vessels=rng.uniform(0.5, 1.5),
        )


@dataclass(frozen=True)
class Exposure:
    """One film: pose, projection and everything else that says nothing about the class."""

    angle: float
    scale: float
    shift: tuple[float, float]
    is_ap: bool  # from the front: a larger heart, a higher diaphragm, more devices
    inspiration: float
    gamma: float
    window: tuple[float, float]
    noise: float
    num_devices: int
    has_marker: bool

    @classmethod
    def of(cls, rng: np.random.Generator) -> Exposure:
        """Draws a film."""
        is_ap = rng.random() < 0.5
        return cls(
            angle=math.radians(rng.uniform(-8, 8)),
            scale=rng.uniform(0.9, 1.1),
            shift=(rng.uniform(-0.08, 0.08), rng.uniform(-0.08, 0.08)),
            is_ap=is_ap,
            inspiration=rng.uniform(-0.06, 0.04) - 0.03 * is_ap,
            gamma=rng.uniform(0.75, 1.3),
            window=(rng.uniform(-0.05, 0.10), rng.uniform(1.15, 1.45)),
            noise=rng.uniform(0.01, 0.03),
            num_devices=int(rng.integers(0, 4 if is_ap else 2)),
            has_marker=rng.random() < 0.7,
        )


def draw(
    anatomy: Anatomy, exposure: Exposure, lesion: Lesion, *, amplitude: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the film, uint8 [128, 128], and the lungs, bool [128, 128]."""
    x, y = _body_coordinates(exposure)
    lungs = _lungs(x, y, anatomy, exposure)
    coarse = _soft_parts(x, y, lungs, anatomy, exposure, rng)
    coarse += amplitude * _lesion(x, y, lungs, lesion, anatomy, rng)
    lung = _enlarge(lungs[0] + lungs[1])
    fine_x, fine_y = _enlarge(x), _enlarge(y)
    density = _enlarge(coarse) + _bones(fine_x, fine_y, anatomy)
    density += anatomy.vessels * lung * _vessels(fine_x, fine_y, rng)
    density += _devices(exposure, rng)
    return _film(density, exposure, rng), lung > 0.5


_AXIS = ((np.arange(HALF, dtype=np.float32) + 0.5) / HALF * 2 - 1).astype(np.float32)
_GRID_X, _GRID_Y = np.meshgrid(_AXIS, _AXIS)


def _body_coordinates(exposure: Exposure) -> tuple[Field, Field]:
    """Where each pixel of the half-size film lies in an upright, centred body."""
    cos, sin = math.cos(exposure.angle) / exposure.scale, math.sin(exposure.angle) / exposure.scale
    x, y = _GRID_X - np.float32(exposure.shift[0]), _GRID_Y - np.float32(exposure.shift[1])
    return cos * x + sin * y, cos * y - sin * x


def _enlarge(field: Field) -> Field:
    return np.asarray(Image.fromarray(field).resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def _smooth_noise(cells: int, size: int, rng: np.random.Generator) -> Field:
    """Standard normal values on a coarse grid, smoothly enlarged."""
    values = rng.standard_normal((cells, cells), dtype=np.float32)
    return np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC))


def _edge(distance: Field, width: float) -> Field:
    """0 outside, 1 inside, a ramp of `width` at distance 0."""
    return np.clip(distance / np.float32(width) + 0.5, 0, 1)


def _blob(x: Field, y: Field, centre: tuple[float, float], radius: tuple[float, float]) -> Field:
    return np.exp(-(((x - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2))


def _lungs(x: Field, y: Field, anatomy: Anatomy, exposure: Exposure) -> tuple[Field, Field]:
    """The right and the left lung, soft masks in [0, 1]."""
    side = np.abs(x)
    cage = 1 - np.abs(side / anatomy.chest_width) ** 2.5 - np.abs((y - 0.02) / anatomy.chest_height) ** 2.5
    cage = _edge(cage, 0.10)
    medial = _edge(side - anatomy.mediastinum * (1 + 0.25 * y), 0.05)
    heart = _edge(_heart(x, y, anatomy, exposure), 0.25)
    both = []
    for sign, dome in zip((-1, 1), anatomy.diaphragm, strict=True):
        floor = dome + exposure.inspiration + 1.1 * (sign * x - 0.30) ** 2
        both.append(cage * medial * _edge(floor - y, 0.04) * (sign * x > 0) * (1 - 0.9 * heart))
    return both[0], both[1]


def _heart(x: Field, y: Field, anatomy: Anatomy, exposure: Exposure) -> Field:
    """Positive inside the heart, 1 at its centre."""
    width = anatomy.heart_width * (1.12 if exposure.is_ap else 1.0)
    u, v = x - 0.10, y - 0.26 - exposure.inspiration
    u, v = u + anatomy.heart_tilt * 0.3 * v, v - anatomy.heart_tilt * 0.3 * u
    return 1 - (u / width) ** 2 - (v / 0.27) ** 2


def _soft_parts(
    x: Field,
    y: Field,
    lungs: tuple[Field, Field],
    anatomy: Anatomy,
    exposure: Exposure,
    rng: np.random.Generator,
) -> Field:
    """Chest wall, abdomen, mediastinum and heart, less the air in the lungs."""
    side = np.abs(x)
    shoulder = np.clip((y + 1.02) / 0.42, 0, 1)
    body = _edge(0.20 + 0.74 * np.sqrt(shoulder) - side, 0.06)
    density = 0.85 * anatomy.thickness * body
    density += 0.14 * _edge(y - 0.45, 0.5) * body  # abdomen
    density += 0.20 * np.exp(-((x / 0.13) ** 2)) * body  # spine and mediastinum
    density -= 0.10 * np.exp(-(((x - 0.01) / 0.045) ** 2)) * _edge(-0.25 - y, 0.1)  # trachea
    density += 0.10 * _blob(x, y, (0.14, -0.26), (0.09, 0.10))  # aortic knob
    density += 0.22 * _edge(_heart(x, y, anatomy, exposure), 0.25)
    air = 0.55 + 0.05 * _smooth_noise(4, HALF, rng)
    density -= air * (lungs[0] + lungs[1])
    hila = _blob(side, y, (anatomy.mediastinum + 0.08, 0.0), (0.09, 0.14))
    density += 0.10 * hila
    density += 0.06 * _smooth_noise(5, HALF, rng) * body  # soft tissue, breasts, skin folds
    return density


def _bones(x: Field, y: Field, anatomy: Anatomy) -> Field:
    """Ribs behind and in front, clavicles."""
    side = np.abs(x)
    inside = _edge(anatomy.chest_width + 0.08 - side, 0.06) * _edge(0.62 - y, 0.2) * _edge(y + 0.78, 0.1)
    behind = (y - anatomy.rib_slope * side + 0.55 * side**2) / anatomy.rib_spacing + anatomy.rib_phase
    front = (y - 0.75 * side - 0.25 * side**2) / (1.25 * anatomy.rib_spacing) + anatomy.rib_phase
    ribs = np.clip(np.cos(2 * np.pi * behind) + 0.1, 0, 1) * (0.35 + np.clip(2.5 * side, 0, 1))
    ribs += 0.5 * np.clip(np.cos(2 * np.pi * front) - 0.2, 0, 1) * np.clip(2.5 * side - 0.4, 0, 1)
    clavicle = np.abs(y + 0.58 + 0.20 * side - 0.25 * side**2)
    clavicles = _edge(0.035 - clavicle, 0.03) * _edge(0.72 - side, 0.1) * _edge(side - 0.08, 0.05)
    return anatomy.rib_density * (ribs * inside + 1.2 * clavicles)


def _vessels(x: Field, y: Field, rng: np.random.Generator) -> Field:
    """Branching lines that thin out from the hila: ridges of smooth noise."""
    ridges = np.clip(1 - np.abs(_smooth_noise(14, SIZE, rng)) / 0.22, 0, 1)
    return 0.09 * ridges * np.exp(-(((np.abs(x) - 0.18) / 0.28) ** 2) - ((y - 0.05) / 0.38) ** 2)


def _lesion(
    x: Field, y: Field, lungs: tuple[Field, Field], lesion: Lesion, anatomy: Anatomy, rng: np.random.Generator
) -> Field:
    match lesion.kind:
        case "none":
            return np.zeros_like(x)
        case "ground_glass":
            return _ground_glass(x, y, lungs, lesion, anatomy, rng)
        case "focal":
            return _focal(x, y, lungs, lesion, anatomy, rng)


def _ground_glass(x, y, lungs, lesion, anatomy, rng) -> Field:
    """Hazy patches along the chest wall of both lungs, lower more than upper."""
    patches = np.zeros_like(x)
    for sign in (-1, 1):
        worse = sign == _SIGN[lesion.side]
        for _ in range(rng.integers(3, 5) + worse):
            centre_y = rng.uniform(-0.15, 0.42)
            centre_x = sign * anatomy.chest_width * rng.uniform(0.62, 0.92)
            patches += _blob(x, y, (centre_x, centre_y), (rng.uniform(0.09, 0.18), rng.uniform(0.10, 0.2)))
    mottled = np.clip(0.75 + 0.45 * _smooth_noise(24, HALF, rng), 0, 2)
    return 0.24 * np.clip(patches, 0, 1.2) * mottled * (lungs[0] + lungs[1])


def _focal(x, y, lungs, lesion, anatomy, rng) -> Field:
    """One dense lobe, cut off by a fissure, or fluid that fills the costophrenic angle, or both."""
    sign = _SIGN[lesion.side]
    lung = lungs[0] if sign < 0 else lungs[1]
    density = np.zeros_like(x)
    if lesion.has_consolidation:
        centre = (sign * rng.uniform(0.28, 0.46), _ZONE_Y[lesion.zone] + rng.uniform(-0.06, 0.06))
        u, v = (x - centre[0]) / rng.uniform(0.16, 0.26), (y - centre[1]) / rng.uniform(0.14, 0.24)
        fissure = _edge(rng.uniform(0.4, 0.8) - v * rng.choice([-1, 1]) - 0.3 * sign * u, 0.15)
        density += 0.40 * _edge(1 - u**2 - v**2, 0.7) * fissure
    if lesion.has_effusion:
        level = rng.uniform(0.30, 0.44)
        meniscus = level - 0.5 * np.clip(sign * x - 0.25, 0, 1) ** 1.0
        density += 0.45 * _edge(y - meniscus, 0.12)
    return density * lung


def _devices(exposure: Exposure, rng: np.random.Generator) -> Field:
    """Tubes, leads and a side marker: dense, thin, unrelated to the class."""
    canvas = Image.new("L", (2 * SIZE, 2 * SIZE))
    pen = ImageDraw.Draw(canvas)
    for _ in range(exposure.num_devices):
        points = rng.uniform(0.15, 0.85, size=(4, 2))
        t = np.linspace(0, 1, 16)[:, None]
        curve = (
            (1 - t) ** 3 * points[0]
            + 3 * t * (1 - t) ** 2 * points[1]
            + 3 * t**2 * (1 - t) * points[2]
            + t**3 * points[3]
        )
        pen.line(
            [tuple(p) for p in (curve * 2 * SIZE).tolist()],
            fill=int(rng.integers(80, 200)),
            width=int(rng.integers(1, 4)),
        )
    if exposure.has_marker:
        corner = (rng.choice([10, 215]) + rng.uniform(-4, 12), rng.uniform(8, 30))
        pen.text(corner, str(rng.choice(["L", "R", "AP", "PA", "SUP"])), fill=int(rng.integers(120, 255)))
    return np.asarray(canvas.reduce(2), dtype=np.float32) / 255 * 0.8


def _film(density: Field, exposure: Exposure, rng: np.random.Generator) -> np.ndarray:
    low, high = exposure.window
    value = np.clip((density - low) / (high - low), 0, 1) ** np.float32(exposure.gamma)
    value += exposure.noise * rng.standard_normal(value.shape, dtype=np.float32)
    return np.rint(255 * np.clip(value, 0, 1)).astype(np.uint8)
