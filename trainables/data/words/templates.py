"""Sentences with a blank for the class. All classes share them, so that they differ only in the blank."""

from __future__ import annotations

from collections.abc import Iterable

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
"""Prompts of family `template` and captions of kind `template`."""
CLASS_TEMPLATE = "A chest X-ray with the pattern of {}."
"""The caption of kind `class_template`, unless the words give another one."""
FINDINGS = (
    "Findings in keeping with {}.",
    "Appearances typical of {}.",
    "Radiographic signs of {}.",
    "The findings suggest {}.",
    "The appearance is that of {}.",
    "Features compatible with {}.",
    "{} is visible on this film.",
    "{} is seen.",
    "The film was reported as {}.",
    "There is evidence of {}.",
)
"""The `findings` of words made from a label."""
UNSEEN = (
    "Chest radiography reveals {}.",
    "Radiologist's diagnosis: {}.",
    "X-ray of a patient with {}.",
    "A case of {}, as shown by radiography.",
    "{} was diagnosed from this radiograph.",
)
"""The `unseen` prompts of words made from a label. No caption is ever made from these."""


def fill(templates: Iterable[str], words: str) -> tuple[str, ...]:
    """Returns the templates with these words in the blank, each beginning with a capital letter."""
    filled = (template.format(words) for template in templates)
    return tuple(sentence[0].upper() + sentence[1:] for sentence in filled)
