"""Origins of the public data sets: images seen in training are no external test. No torch.

Only what their authors state; a collection that may be in another one is listed under `POSSIBLE`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DATA_SETS: dict[str, tuple[str, ...]] = {
    "MIMIC-CXR": ("MIMIC-CXR",),
    "CheXpert": ("CheXpert",),
    "CheXpert-5x200": ("CheXpert",),
    "NIH ChestX-ray14": ("NIH ChestX-ray14",),
    "RSNA pneumonia": ("NIH ChestX-ray14",),
    "ChestMNIST": ("NIH ChestX-ray14",),
    "PneumoniaMNIST": ("Guangzhou paediatric",),
    "Shenzhen": ("Shenzhen",),
    "Montgomery": ("Montgomery",),
    "TBX11K": ("TBX11K", "Shenzhen", "Montgomery"),
    "COVID-QU-Ex": ("COVID-QU-Ex", "NIH ChestX-ray14", "Guangzhou paediatric", "PadChest"),
    "PadChest": ("PadChest",),
}
"""Data set → the collections that its images were taken from."""

SOURCES: dict[str, tuple[str, ...]] = {
    **DATA_SETS,
    "CXR-CLIP": ("MIMIC-CXR", "CheXpert", "NIH ChestX-ray14"),
    "PMC-15M": ("figures of publications",),
    "ROCO": ("figures of publications",),
    "PubMed abstracts": (),
    "MIMIC-III notes": (),
    "TreeOfLife-10M": (),
    "WIT-400M": (),
    "ImageNet": (),
    "sentence pairs": (),
}
"""What encoders were trained on → the collections that images of it were taken from; text alone has none."""

POSSIBLE: dict[str, tuple[str, ...]] = {"COVID-QU-Ex": ("figures of publications",)}
"""Data set → collections that it may share images with: early COVID collections cut theirs from papers."""

ALIASES: dict[str, str] = {
    "covid_qu_ex": "COVID-QU-Ex",
    "covid": "COVID-QU-Ex",
    "mimic": "MIMIC-CXR",
    "mimic-cxr-jpg": "MIMIC-CXR",
    "nih": "NIH ChestX-ray14",
    "chestx-ray14": "NIH ChestX-ray14",
    "chestxray14": "NIH ChestX-ray14",
    "rsna": "RSNA pneumonia",
    "chexpert5x200": "CheXpert-5x200",
}


@dataclass(frozen=True)
class Overlap:
    """Images that an encoder may have been trained on."""

    trained_on: str
    collections: tuple[str, ...]
    is_certain: bool

    def __str__(self) -> str:
        """Reads as `trained on CheXpert`."""
        seen = f"trained on {self.trained_on}"
        if self.is_certain:
            whole = self.collections == (self.trained_on,)
            return seen if whole else f"{seen}, which shares {' and '.join(self.collections)}"
        return f"possibly {seen} with the same images ({' and '.join(self.collections)})"


def known_data_set(name: str) -> str | None:
    """Returns a data set's name in `DATA_SETS`, ignoring case and punctuation, or None."""
    by_letters = {_letters(known): known for known in DATA_SETS}
    by_letters |= {_letters(alias): known for alias, known in ALIASES.items()}
    return by_letters.get(_letters(name))


def overlaps(pretrained_on: tuple[str, ...], data_set: str) -> list[Overlap]:
    """Returns the parts of a data set that an encoder was trained on, as far as its origin is known."""
    known = known_data_set(data_set)
    if known is None:
        return []
    found: list[Overlap] = []
    for source in pretrained_on:
        seen = SOURCES[source]
        certain = tuple(name for name in DATA_SETS[known] if name in seen)
        possible = tuple(name for name in POSSIBLE.get(known, ()) if name in seen)
        if certain or possible:
            found.append(Overlap(source, certain or possible, is_certain=bool(certain)))
    return found


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())
