"""Origins of the public data sets, to warn of test images that an encoder was trained on. Imports no torch.

The tables contain only what the authors state. `POSSIBLE` lists collections that may share images.
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
    "SIIM-ACR pneumothorax": ("NIH ChestX-ray14",),
    "Kermany": ("Guangzhou paediatric",),
    "ChestMNIST": ("NIH ChestX-ray14",),
    "PneumoniaMNIST": ("Guangzhou paediatric",),
    "Shenzhen": ("Shenzhen",),
    "Montgomery": ("Montgomery",),
    "TBX11K": ("TBX11K", "Shenzhen", "Montgomery"),
    "COVID-QU-Ex": ("COVID-QU-Ex", "NIH ChestX-ray14", "Guangzhou paediatric", "PadChest"),
    "COVID-19 Radiography": (
        *("COVID-19 Radiography", "NIH ChestX-ray14", "Guangzhou paediatric", "PadChest"),
    ),
    "TB of Rahman et al.": ("Montgomery", "Shenzhen", "Belarus", "NIH ChestX-ray14"),
    "PadChest": ("PadChest",),
    "VinDr-CXR": ("VinDr-CXR",),
    "BRAX": ("BRAX",),
    "Open-i": ("Open-i",),
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
"""Training data of encoders → the collections that its images were taken from; () for text only."""

POSSIBLE: dict[str, tuple[str, ...]] = {
    "COVID-QU-Ex": ("figures of publications",),
    "COVID-19 Radiography": ("figures of publications",),
}
"""Data set → collections that may have the same images: early COVID collections copied figures of papers."""

ALIASES: dict[str, str] = {
    "covid_qu_ex": "COVID-QU-Ex",
    "covid": "COVID-QU-Ex",
    "mimic": "MIMIC-CXR",
    "mimic-cxr-jpg": "MIMIC-CXR",
    "nih": "NIH ChestX-ray14",
    "nih14": "NIH ChestX-ray14",
    "chestx-ray14": "NIH ChestX-ray14",
    "chestxray14": "NIH ChestX-ray14",
    "rsna": "RSNA pneumonia",
    "chexpert5x200": "CheXpert-5x200",
    "siim": "SIIM-ACR pneumothorax",
    "covid_radiography": "COVID-19 Radiography",
    "tb_rahman": "TB of Rahman et al.",
    "medmnist": "PneumoniaMNIST",
}


@dataclass(frozen=True)
class Overlap:
    """Images of a data set that an encoder was, or may have been, trained on."""

    trained_on: str
    collections: tuple[str, ...]
    is_certain: bool

    def __str__(self) -> str:
        """Returns text such as `trained on CheXpert`."""
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
    """Returns the parts of a data set on which an encoder was trained, as far as known."""
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
