"""A data set of synthetic chest radiographs with several findings and a report. It needs no files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

import numpy as np

from trainables.artifacts import fingerprint
from trainables.config import DataConfig, PhantomConfig, Split
from trainables.data.counter_rng import counter_rng
from trainables.data.phantom import SPLIT_INDICES, who
from trainables.data.phantom_image import Anatomy, Exposure, draw
from trainables.data.phantom_lesions import Lesion, Side, Zone
from trainables.data.records import NO_FINDING, ImageRecord, LabelledImages

PHANTOM_FINDINGS_VERSION = 1
"""Raise this number when the same seed would give other pixels, labels or reports."""
LARGER_HEART = 0.3
"""By how much a heart with cardiomegaly is wider, at `lesion_amplitude` 1."""


@dataclass(frozen=True)
class _Finding:
    """A finding: how frequent it is, how it is drawn, and how a report describes it."""

    probability: float
    lesion: Lesion
    sentences: tuple[str, ...]  # with {side} and {zone} where the image shows them


FINDINGS: dict[str, _Finding] = {
    "Atelectasis": _Finding(
        0.30,
        Lesion("plate"),
        (
            "Linear atelectasis in the {side} base.",
            "A thin band of collapsed lung above the {side} diaphragm.",
            "Plate-like opacity at the {side} base.",
        ),
    ),
    "Cardiomegaly": _Finding(
        0.35,
        Lesion("none"),  # the heart itself is drawn wider
        ("The heart is enlarged.", "Cardiomegaly.", "The cardiac silhouette is wide."),
    ),
    "Consolidation": _Finding(
        0.35,
        Lesion("focal", has_consolidation=True),
        (
            "Consolidation of the {side} {zone} zone.",
            "Dense airspace opacity in the {zone} zone of the {side} lung.",
            "Focal consolidation, {side} {zone} zone.",
        ),
    ),
    "Effusion": _Finding(
        0.35,
        Lesion("focal", has_effusion=True),
        (
            "{side} pleural effusion.",
            "Fluid blunts the {side} costophrenic angle.",
            "A pleural effusion on the {side}.",
        ),
    ),
    "Fibrosis": _Finding(
        0.30,
        Lesion("reticular"),
        (
            "Reticular opacities in both bases.",
            "Basal fibrosis.",
            "A net of fine lines in the lower zones, as in fibrosis.",
        ),
    ),
    "Infiltration": _Finding(
        0.30,
        Lesion("ground_glass"),
        (
            "Hazy peripheral infiltrates, worse on the {side}.",
            "Patchy ground-glass opacities in both lungs, mainly {side}.",
            "Bilateral infiltration with {side} predominance.",
        ),
    ),
    "Nodule": _Finding(
        0.30,
        Lesion("nodule"),
        (
            "A nodule in the {side} {zone} zone.",
            "Small round density in the {zone} zone of the {side} lung.",
            "Solitary nodule, {side} {zone} zone.",
        ),
    ),
    "Pneumothorax": _Finding(
        0.25,
        Lesion("air"),
        (
            "{side} pneumothorax.",
            "A pleural line and air along the {side} chest wall.",
            "Air in the {side} pleural space.",
        ),
    ),
}
NORMAL = (
    "The lungs are clear and the heart is of normal size.",
    "Normal chest radiograph.",
    "Clear lungs, normal heart.",
    "Unremarkable heart, lungs and pleura.",
    "Heart and lungs are normal.",
)


@dataclass(frozen=True)
class FindingsPhantom:
    """A synthetic radiograph: pixels uint8 [128, 128], lung mask bool [128, 128], and its content."""

    image: np.ndarray
    lung_mask: np.ndarray
    lesions: dict[str, Lesion]
    patient: int
    report_text: str


def phantom_findings(config: DataConfig) -> LabelledImages:
    """Returns the phantoms of `data.seed`. The index gives the findings; pixels are drawn on demand."""
    spec, classes = config.phantom, (*FINDINGS, NO_FINDING)
    recipe = fingerprint(
        "phantom_findings", PHANTOM_FINDINGS_VERSION, spec.images_per_patient, spec.lesion_amplitude
    )
    records, content = [], {}
    for number, split in enumerate(get_args(Split)):
        for index in range(number * SPLIT_INDICES, number * SPLIT_INDICES + getattr(spec, f"num_{split}")):
            patient, _ = who(config.seed, index, images_per_patient=spec.images_per_patient)
            lesions = lesions_of(config.seed, index)
            present = set(lesions) or {NO_FINDING}
            record = ImageRecord(
                image_id=f"phantom-findings-{config.seed}-{index:07d}",
                patient_id=f"phantom-findings-{config.seed}-patient-{patient:07d}",
                split=split,
                labels={name: int(name in present) for name in classes},
                report_text=report(config.seed, index, lesions),
            )
            records.append(record)
            content[record.image_id] = f"{recipe}-{config.seed}-{index}"
    decode = partial(_decode, config.seed, spec)
    return LabelledImages(classes, records, content, decode=decode, task="multilabel")


def lesions_of(seed: int, index: int) -> dict[str, Lesion]:
    """Returns finding → lesion of an image. The findings are independent of each other and of the patient."""
    rng = counter_rng("phantom findings", seed, index)
    lesions: dict[str, Lesion] = {}
    for name, finding in FINDINGS.items():
        is_present, side, zone = rng.random(), rng.choice(get_args(Side)), rng.choice(get_args(Zone))
        if is_present < finding.probability:
            lesions[name] = replace(finding.lesion, side=side, zone=zone)
    return lesions


def report(seed: int, index: int, lesions: dict[str, Lesion]) -> str:
    """Returns a sentence for each lesion, in a drawn order, or a sentence on a normal chest."""
    rng = counter_rng("phantom findings report", seed, index)
    if not lesions:
        return str(rng.choice(NORMAL))
    said = [
        str(rng.choice(FINDINGS[name].sentences)).format(side=lesion.side, zone=lesion.zone)
        for name, lesion in lesions.items()
    ]
    return " ".join(said[place][0].upper() + said[place][1:] for place in rng.permutation(len(said)))


def render(
    seed: int, index: int, *, images_per_patient: int = 2, lesion_amplitude: float = 1.0
) -> FindingsPhantom:
    """Returns one phantom, which depends only on the arguments."""
    patient, _ = who(seed, index, images_per_patient=images_per_patient)
    lesions, anatomy = lesions_of(seed, index), Anatomy.of(counter_rng("phantom patient", seed, patient))
    if "Cardiomegaly" in lesions:
        heart_width = anatomy.heart_width * (1 + LARGER_HEART * lesion_amplitude)
        anatomy = replace(anatomy, heart_width=heart_width)
    rng = counter_rng("phantom findings image", seed, index)
    exposure = Exposure.of(rng)
    image, lung_mask = draw(anatomy, exposure, list(lesions.values()), amplitude=lesion_amplitude, rng=rng)
    return FindingsPhantom(image, lung_mask, lesions, patient, report(seed, index, lesions))


def _decode(seed: int, spec: PhantomConfig, record: ImageRecord) -> np.ndarray:
    index = int(record.image_id.rpartition("-")[2])
    knobs = {"images_per_patient": spec.images_per_patient, "lesion_amplitude": spec.lesion_amplitude}
    return render(seed, index, **knobs).image
