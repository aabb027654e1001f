"""Captions for training and prompts for zero-shot scores. Both describe findings visible on a radiograph.

No caption negates another class ("no pneumonia", "non-covid"), because text encoders often ignore a negation.
Unseen prompts have no sentence and no five successive words in common with the training texts; a test checks
this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from trainables.config import CaptionKind, PromptFamily
from trainables.data.counter_rng import counter_rng
from trainables.data.records import Dataset, ImageRecord
from trainables.errors import ConfigError


@dataclass(frozen=True)
class ClassText:
    """The words for one class."""

    name: str  # the class in prose
    pattern: str  # what a film of the class shows; inserted into templates
    template: str  # the one caption of `class_template`
    findings: tuple[str, ...]  # captions of `finding`, and prompts of family "training"
    unseen: tuple[str, ...]  # prompts that training never uses
    pairs: tuple[tuple[str, str], ...]  # (finding, its contrary): prompts of family "pair"


TEMPLATES = (
    "A chest X-ray of {}.",
    "A chest X-ray showing {}.",
    "A chest X-ray read as {}.",
    "This chest X-ray shows {}.",
    "{} on a chest X-ray.",
    "{} on a frontal film.",
    "Chest film: {}.",
    "A chest film with {}.",
    "A plain film of the chest, {}.",
    "A frontal radiograph showing {}.",
    "A posteroanterior radiograph with {}.",
    "The radiograph depicts {}.",
    "The radiograph is read as {}.",
    "A portable X-ray of the chest with {}.",
    "An X-ray image of {}.",
    "A thoracic X-ray with {}.",
    "A grey-scale X-ray depicting {}.",
    "Impression: {}.",
    "Reading of the film: {}.",
    "The image demonstrates {}.",
)
"""Templates are the same for every class, so that classes differ only in the pattern."""

CLASS_TEXTS: dict[str, ClassText] = {
    "COVID-19": ClassText(
        name="COVID-19 pneumonia",
        pattern="COVID-19 pneumonia",
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
        pairs=(
            ("Peripheral haze in both lungs.", "The outer zones of both lungs are clear."),
            ("Bilateral ground-glass opacity.", "Both lungs are evenly dark and well aerated."),
            ("Hazy lower zones on both sides.", "Both lower zones are clear."),
        ),
    ),
    "Non-COVID": ClassText(
        # Bacterial and viral: the usual name for pneumonia that COVID-19 did not cause.
        name="community-acquired pneumonia",
        pattern="community-acquired pneumonia",
        template="A chest X-ray with the pattern of community-acquired pneumonia.",
        findings=(
            "Dense focal consolidation of a single lobe.",
            "Lobar consolidation with air bronchograms on one side.",
            "A unilateral airspace opacity with a pleural effusion.",
            "Focal bacterial pneumonia confined to one lobe.",
            "Blunted costophrenic angle and consolidation on the same side.",
            "Segmental consolidation bounded by a fissure.",
            "Patchy bronchopneumonia around the bronchi of one lung.",
            "Coarse interstitial markings that radiate from the hila.",
            "Perihilar streaks and thickened bronchial walls, as in viral pneumonia of childhood.",
            "Central peribronchial infiltrates in hyperinflated lungs.",
        ),
        unseen=(
            "Bacterial lobar pneumonia with dense consolidation.",
            "Localised consolidation in one lung, with effusion.",
            "Unilateral focal airspace disease and pleural fluid.",
            "Community-acquired chest infection, bacterial or viral.",
            "Bronchial cuffing next to the hila in seasonal viral infection.",
        ),
        pairs=(
            ("One lobe is consolidated.", "Every lobe is well aerated."),
            ("A dense opacity on one side only.", "Both sides look alike."),
            ("Fluid blunts one costophrenic angle.", "Both costophrenic angles are sharp."),
        ),
    ),
    "Normal": ClassText(
        name="a normal chest",
        pattern="clear, normal lungs",
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
        pairs=(
            ("The lungs are clear and well aerated.", "The lungs are abnormal, with opacities."),
            ("A normal chest radiograph.", "An abnormal chest radiograph."),
            ("Healthy lungs.", "Diseased lungs."),
        ),
    ),
}
"""Class → its texts. For a new data set, add its classes to this table."""


def captions_for(
    dataset: Dataset, indices: np.ndarray, *, kind: CaptionKind, seed: int, epoch: int
) -> list[str]:
    """Returns one caption per train record; (seed, epoch, image) selects one of several captions.

    Raises ValueError for a record of val or test, because its caption would reveal its label.
    """
    texts = [_text_of(name) for name in dataset.classes]
    captions = []
    for i, k in zip(indices.tolist(), dataset.class_indices(indices), strict=True):
        possible = captions_of(dataset, dataset.records[i], texts[k], kind=kind)
        drawn = counter_rng("caption", seed, epoch, i).integers(len(possible)) if len(possible) > 1 else 0
        captions.append(possible[int(drawn)])
    return captions


def captions_of(
    dataset: Dataset, record: ImageRecord, text: ClassText, *, kind: CaptionKind
) -> Sequence[str]:
    """Returns the possible captions of a train record of a class.

    A record's `report_text` is an additional finding. A description of its mask replaces all others.
    """
    if record.split != "train":
        raise ValueError(
            f"{record.image_id} is in split '{record.split}', and its caption would reveal its label"
        )
    description = dataset.descriptions.get(record.image_id)
    match kind:
        case "class_template":
            return (text.template,)
        case "template":
            return templates_of(text)
        case "blip_label":
            return (with_label(dataset.descriptions[record.image_id], text),)
        case "mask_finding" if description is not None:
            return (description,)
        case "finding" | "mask_finding":
            return text.findings if record.report_text is None else (*text.findings, record.report_text)


def with_label(description: str, text: ClassText) -> str:
    """Returns a description with the pattern of the class appended."""
    return f"{description.rstrip('. ')}, {text.pattern}."


def every_caption(dataset: Dataset, *, kind: CaptionKind) -> list[str]:
    """Returns each caption that `captions_for` can return, without duplicates."""
    texts, train = [_text_of(name) for name in dataset.classes], dataset.indices("train")
    possible = (
        captions_of(dataset, dataset.records[i], texts[k], kind=kind)
        for i, k in zip(train.tolist(), dataset.class_indices(train), strict=True)
    )
    return list(dict.fromkeys(caption for captions in possible for caption in captions))


def class_prompts(classes: Sequence[str], family: PromptFamily) -> dict[str, list[str]]:
    """Returns class → prompts of a family, in the order of `classes`; for `pair`, the findings."""
    texts = {name: _text_of(name) for name in classes}
    match family:
        case "class_name":
            return {name: [text.name] for name, text in texts.items()}
        case "template":
            return {name: list(templates_of(text)) for name, text in texts.items()}
        case "training":
            return {name: list(text.findings) for name, text in texts.items()}
        case "unseen":
            return {name: list(text.unseen) for name, text in texts.items()}
        case "pair":
            return {name: [finding for finding, _ in text.pairs] for name, text in texts.items()}


def contrary_prompts(classes: Sequence[str]) -> dict[str, list[str]]:
    """Returns class → contrary prompts of family `pair`, in the order of the findings."""
    return {name: [contrary for _, contrary in _text_of(name).pairs] for name in classes}


@cache
def templates_of(text: ClassText) -> tuple[str, ...]:
    """Returns every template, filled with the pattern of a class."""
    filled = (template.format(text.pattern) for template in TEMPLATES)
    return tuple(sentence[0].upper() + sentence[1:] for sentence in filled)


def _text_of(name: str) -> ClassText:
    if name not in CLASS_TEXTS:
        raise ConfigError(
            f"class '{name}' has no captions and prompts (known: {', '.join(CLASS_TEXTS)}); "
            f"name the class as one of them, or add it to CLASS_TEXTS in trainables/data/text.py"
        )
    return CLASS_TEXTS[name]
