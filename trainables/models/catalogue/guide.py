"""Recommends encoders by data set or need, from a literature study. A recommendation is not a result."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal, get_args

from trainables.errors import ConfigError
from trainables.models.catalogue.origins import known_data_set

Need = Literal["zero-shot", "few-shot", "general", "speed"]


@dataclass(frozen=True)
class Advice:
    """The recommended encoders for one purpose, best first, and the reason."""

    encoders: tuple[str, ...]
    reason: str


_TUBERCULOSIS = Advice(
    ("medclip-vit", "chexzero"), "for few labelled images: their features already separate findings"
)
_GENERAL = Advice(
    ("biovil", "gloria"), "trained on whole reports, so their features are not tied to one label set"
)

BY_DATA: dict[str, Advice] = {
    "MIMIC-CXR": Advice(("medclip-vit", "biovil", "gloria"), "trained on radiology reports of this kind"),
    "CheXpert": Advice(
        ("chexzero",), "close to radiologists on CheXpert's findings with prompts alone, without labels"
    ),
    "NIH ChestX-ray14": Advice(("medclip-vit", "biovil"), "good on findings with labels mined from reports"),
    "Shenzhen": _TUBERCULOSIS,
    "Montgomery": _TUBERCULOSIS,
    "TBX11K": _TUBERCULOSIS,
    "TB of Rahman et al.": _TUBERCULOSIS,
    "COVID-QU-Ex": Advice(
        _GENERAL.encoders, f"not covered by the study; as for all radiographs: {_GENERAL.reason}"
    ),
}
"""Data set, named as in `origins.DATA_SETS` → advice."""

BY_NEED: dict[Need, Advice] = {
    "zero-shot": Advice(("chexzero",), "made for this: needs only text prompts, no labels of your data"),
    "few-shot": Advice(("medclip-vit",), "use its frozen features with a logistic regression (`run probe`)"),
    "general": _GENERAL,
    "speed": Advice(
        (
            "openai/clip-vit-base-patch32",
            "openai/clip-vit-base-patch16",
            "openai/clip-vit-large-patch14",
            "openai/clip-vit-large-patch14-336",
        ),
        "OpenAI's CLIP, from the fastest to the most accurate and slowest; its ResNets are older",
    ),
}


def advise(data: str | None, need: str | None) -> list[tuple[str, Advice]]:
    """Returns the advice for a data set and for a need, each with its name."""
    found: list[tuple[str, Advice]] = []
    if data is not None:
        known = known_data_set(data)
        if known not in BY_DATA:
            raise ConfigError(_unknown("--data", data, list(BY_DATA)))
        found.append((known, BY_DATA[known]))
    if need is not None:
        if need not in BY_NEED:
            raise ConfigError(_unknown("--need", need, list(get_args(Need))))
        found.append((need, BY_NEED[need]))
    if not found:
        raise ConfigError(
            f"models recommend: needs --data (one of {', '.join(BY_DATA)}) or --need (one of "
            f"{', '.join(BY_NEED)})"
        )
    return found


def _unknown(option: str, name: str, known: list[str]) -> str:
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.4)
    hint = f"; did you mean '{by_lower[near[0]]}'?" if near else ""
    return f"{option} {name}: no advice for it{hint} (known: {', '.join(known)})"
