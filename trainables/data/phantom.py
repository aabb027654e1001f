"""A data set of synthetic chest radiographs with patients, findings and reports. It needs no files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import get_args

import numpy as np

from trainables.artifacts import fingerprint
from trainables.config import DataConfig, PhantomConfig, Split
from trainables.data.counter_rng import counter_rng
from trainables.data.phantom_image import Anatomy, Exposure, draw
from trainables.data.phantom_lesions import Lesion, Side, Zone
from trainables.data.records import ImageRecord, LabelledImages, one_hot

PHANTOM_VERSION = 2
"""Raise this number when the same seed would give other pixels."""
CLASSES = ("COVID-19", "Non-COVID", "Normal")
SPLIT_INDICES = 1_000_000
"""Each split has a separate range of a million indices, so more train images do not change val and test."""


@dataclass(frozen=True)
class Phantom:
    """A synthetic radiograph: pixels uint8 [128, 128], lung mask bool [128, 128], and its content."""

    image: np.ndarray
    lung_mask: np.ndarray
    class_name: str
    patient: int
    report_text: str


def phantom(config: DataConfig) -> LabelledImages:
    """Returns the phantoms of `data.seed`. The index gives patient and class; pixels are drawn on demand."""
    spec, labels = config.phantom, one_hot(CLASSES)
    recipe = fingerprint("phantom", PHANTOM_VERSION, spec.images_per_patient, spec.lesion_amplitude)
    records, content = [], {}
    for number, split in enumerate(get_args(Split)):
        for index in range(number * SPLIT_INDICES, number * SPLIT_INDICES + getattr(spec, f"num_{split}")):
            patient, class_name = who(config.seed, index, images_per_patient=spec.images_per_patient)
            lesion = lesion_of(config.seed, index, class_name=class_name)
            record = ImageRecord(
                image_id=f"phantom-{config.seed}-{index:07d}",
                patient_id=f"phantom-{config.seed}-patient-{patient:07d}",
                split=split,
                labels=labels[class_name],
                finding_text=report(lesion),
            )
            records.append(record)
            content[record.image_id] = f"{recipe}-{config.seed}-{index}"
    decode = partial(_decode, config.seed, spec)
    return LabelledImages(CLASSES, records, content, decode=decode, words="covid_qu_ex")


def who(seed: int, index: int, *, images_per_patient: int) -> tuple[int, str]:
    """Returns the patient of an image, and the class of this patient.

    The patients of a split have 1, 2, … `images_per_patient` images in turn. Among three successive patients,
    each class occurs once.
    """
    split, position = divmod(index, SPLIT_INDICES)
    sizes = np.arange(1, images_per_patient + 1)
    rounds, rest = divmod(position, int(sizes.sum()))
    patient = rounds * images_per_patient + int(np.searchsorted(sizes.cumsum(), rest, side="right"))
    order = counter_rng("phantom classes", seed, split, patient // len(CLASSES)).permutation(len(CLASSES))
    return split * SPLIT_INDICES + patient, CLASSES[order[patient % len(CLASSES)]]


def lesion_of(seed: int, index: int, *, class_name: str) -> Lesion:
    """Returns a random lesion for an image of a class."""
    rng = counter_rng("phantom lesion", seed, index)
    side: Side = rng.choice(get_args(Side))
    if class_name == "Normal":
        return Lesion("none")
    if class_name == "COVID-19":
        return Lesion("ground_glass", side)
    zone: Zone = rng.choice(get_args(Zone))
    form = rng.choice(["consolidation", "effusion", "both"], p=[0.5, 0.2, 0.3])
    return Lesion(
        "focal", side, zone, has_consolidation=form != "effusion", has_effusion=form != "consolidation"
    )


def report(lesion: Lesion) -> str:
    """Returns a short report of the finding."""
    if lesion.kind == "none":
        return "Clear lungs, normal heart."
    if lesion.kind == "ground_glass":
        return f"Bilateral peripheral hazy opacities, worse on the {lesion.side}."
    parts = []
    if lesion.has_consolidation:
        parts.append(f"consolidation of the {lesion.side} {lesion.zone} zone")
    if lesion.has_effusion:
        parts.append(f"{lesion.side} pleural effusion")
    return f"{' and '.join(parts).capitalize()}."


def render(seed: int, index: int, *, images_per_patient: int = 2, lesion_amplitude: float = 1.0) -> Phantom:
    """Returns one phantom, which depends only on the arguments."""
    patient, class_name = who(seed, index, images_per_patient=images_per_patient)
    lesion = lesion_of(seed, index, class_name=class_name)
    rng = counter_rng("phantom image", seed, index)
    image, lung_mask = draw(
        Anatomy.of(counter_rng("phantom patient", seed, patient)),
        Exposure.of(rng),
        [lesion],
        amplitude=lesion_amplitude,
        rng=rng,
    )
    return Phantom(image, lung_mask, class_name, patient, report(lesion))


def _decode(seed: int, spec: PhantomConfig, record: ImageRecord) -> np.ndarray:
    index = int(record.image_id.rpartition("-")[2])
    knobs = {"images_per_patient": spec.images_per_patient, "lesion_amplitude": spec.lesion_amplitude}
    return render(seed, index, **knobs).image
