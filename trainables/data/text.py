"""Captions to train with, prompts to ask with. Our own words, as findings: a radiograph shows no test result.

No caption negates another class ("no pneumonia", "non-covid"): text encoders hear the noun and miss the
negation. Unseen prompts share no sentence and no five words in a row with anything trained on; a test holds
this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainables.config import CaptionKind, PromptFamily
from trainables.data.counter_rng import counter_rng
from trainables.data.records import Dataset
from trainables.errors import ConfigError


@dataclass(frozen=True)
class ClassText:
    """The words for one class."""

    name: str  # in prose
    template: str  # the one caption of `class_template`
    findings: tuple[str, ...]  # captions of `finding`, and the prompts of family "training"
    unseen: tuple[str, ...]  # prompts never trained on


CLASS_TEXTS: dict[str, ClassText] = {
    "COVID-19": ClassText(
        name="COVID-19 pneumonia",
        template="A chest X-ray with the pattern of COVID-19 pneumonia.",
        findings=(
            "Bilateral hazy opacities in the periphery of the lower zones.",
            "Patchy ground-glass opacities on both sides, mostly peripheral and basal.",
            "Multifocal hazy shadowing of both lungs, typical of COVID-19.",
            "Both lungs show faint peripheral opacities towards the bases.",
            "Subpleural ground-glass change in both lower lungs.",
            "Diffuse bilateral haziness with a peripheral distribution.",
            "Scattered ill-defined opacities along the outer parts of both lungs.",
            "Appearance of viral COVID-19 pneumonia with bilateral basal haze.",
            "Symmetrical peripheral veiling of the mid and lower zones on both sides.",
            "Ground-glass opacification of both lungs, sparing the hila.",
        ),
        unseen=(
            "Coronavirus infection affecting both lungs with peripheral ground glass.",
            "Widespread bilateral ground-glass opacities, worse at the bases.",
            "Hazy bilateral lower zone opacities consistent with COVID-19.",
            "Multiple peripheral patches of haze seen bilaterally.",
            "Chest radiograph of a patient with COVID-19: diffuse ground-glass haze bilaterally.",
        ),
    ),
    "Non-COVID": ClassText(
        name="lobar pneumonia",
        template="A chest X-ray with a focal lobar pneumonia.",
        findings=(
            "Dense focal consolidation of a single lobe.",
            "Lobar consolidation with air bronchograms on one side.",
            "A unilateral airspace opacity with a pleural effusion.",
            "Focal bacterial pneumonia confined to one lobe.",
            "One lung shows a well-defined area of consolidation.",
            "Blunted costophrenic angle and consolidation on the same side.",
            "Segmental consolidation bounded by a fissure.",
            "Pleural effusion layering at one lung base.",
            "A solitary dense opacity fills part of one lung.",
            "Consolidated lobe with a small parapneumonic effusion.",
        ),
        unseen=(
            "Bacterial lobar pneumonia with dense consolidation.",
            "Localised consolidation in one lung, with effusion.",
            "Unilateral focal airspace disease and pleural fluid.",
            "A single lobe is densely consolidated.",
            "Bacterial pneumonia: one consolidated lobe and an effusion.",
        ),
    ),
    "Normal": ClassText(
        name="a normal chest",
        template="A normal chest X-ray with clear lungs.",
        findings=(
            "The lungs are clear.",
            "Clear lungs and a heart of normal size.",
            "Normal chest radiograph.",
            "Both lungs are well aerated and clear.",
            "Healthy lungs with sharp costophrenic angles.",
            "Normal cardiac silhouette and clear lung fields.",
            "The chest is unremarkable, with clear lung fields.",
            "Lungs of normal transparency with normal vessels.",
            "Normal heart, normal mediastinum, clear lungs.",
            "A healthy chest with clear and well expanded lungs.",
        ),
        unseen=(
            "A healthy person's radiograph with normal, clear lungs.",
            "Normal study: lungs clear, heart size normal.",
            "Unremarkable chest film of a healthy adult.",
            "Clear, normally aerated lung fields throughout.",
            "Chest radiograph of a healthy patient: clear lungs, normal heart.",
        ),
    ),
}
"""Class → its words. A new data set adds its classes here."""


def captions_for(
    dataset: Dataset, indices: np.ndarray, *, kind: CaptionKind, seed: int, epoch: int
) -> list[str]:
    """Returns one caption per record: the class's template, or a finding drawn by (seed, epoch, image).

    A record's own `report_text` joins the findings of its class as one more that can be drawn.

    Raises:
        ConfigError: a class without words.
        ValueError: a withheld label.
    """
    texts = [_text_of(name) for name in dataset.classes]
    of_images = [texts[k] for k in dataset.class_indices(indices)]
    if kind == "class_template":
        return [text.template for text in of_images]
    captions = []
    for i, text in zip(indices, of_images, strict=True):
        report = dataset.records[i].report_text
        findings = text.findings if report is None else (*text.findings, report)
        captions.append(findings[counter_rng("caption", seed, epoch, int(i)).integers(len(findings))])
    return captions


def every_caption(dataset: Dataset, *, kind: CaptionKind) -> list[str]:
    """Returns each caption that `captions_for` can give to a train record, once."""
    texts = [_text_of(name) for name in dataset.classes]
    if kind == "class_template":
        return [text.template for text in texts]
    reports = [dataset.records[i].report_text for i in dataset.indices("train")]
    findings = [finding for text in texts for finding in text.findings]
    return list(dict.fromkeys([*findings, *(report for report in reports if report is not None)]))


def class_prompts(classes: Sequence[str], family: PromptFamily) -> dict[str, list[str]]:
    """Returns class → prompts of a family, in the order of `classes`.

    Raises:
        ConfigError: a class without words.
    """
    texts = {name: _text_of(name) for name in classes}
    match family:
        case "class_name":
            return {name: [f"A chest X-ray of {text.name}."] for name, text in texts.items()}
        case "training":
            return {name: list(text.findings) for name, text in texts.items()}
        case "unseen":
            return {name: list(text.unseen) for name, text in texts.items()}


def _text_of(name: str) -> ClassText:
    if name not in CLASS_TEXTS:
        raise ConfigError(
            f"class '{name}' has no captions and prompts (known: {', '.join(CLASS_TEXTS)}); "
            f"name the class as one of them, or add it to CLASS_TEXTS in trainables/data/text.py"
        )
    return CLASS_TEXTS[name]
