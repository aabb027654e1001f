"""What an encoder has seen in training is said before it is tested on it."""

from __future__ import annotations

import pytest

from trainables.models.catalogue.guide import BY_DATA, BY_NEED, advise
from trainables.models.catalogue.origins import (
    ALIASES,
    DATA_SETS,
    POSSIBLE,
    SOURCES,
    known_data_set,
    overlaps,
)
from trainables.models.catalogue.other_systems import OTHER_SYSTEMS
from trainables.models.catalogue.registry import ENCODERS


@pytest.mark.parametrize(
    ("encoder", "data_set", "expected"),
    [
        ("medclip-vit", "chexpert", ["trained on CheXpert"]),
        ("medclip-vit", "MIMIC-CXR-JPG", ["trained on MIMIC-CXR"]),
        ("gloria", "chexpert_5x200", ["trained on CheXpert"]),
        ("gloria", "nih", []),
        ("biomedclip", "covid_qu_ex", [
            "possibly trained on PMC-15M with the same images (figures of publications)"
        ]),
        ("imageomics/bioclip", "covid_qu_ex", []),
        ("chexzero", "my own images", []),
    ],
)  # fmt: skip
def test_overlaps_are_named_with_their_certainty(encoder, data_set, expected):
    assert [str(overlap) for overlap in overlaps(ENCODERS[encoder].pretrained_on, data_set)] == expected


def test_a_data_set_made_of_others_shares_their_images():
    assert [str(o) for o in overlaps(("Shenzhen",), "tbx11k")] == ["trained on Shenzhen"]
    assert [str(o) for o in overlaps(("TBX11K",), "shenzhen")] == ["trained on TBX11K, which shares Shenzhen"]


def test_every_name_in_the_tables_is_known():
    spoken = [*ENCODERS.values(), *OTHER_SYSTEMS.values()]
    assert {source for system in spoken for source in system.pretrained_on} <= set(SOURCES)
    assert set(ALIASES.values()) | set(POSSIBLE) | set(BY_DATA) <= set(DATA_SETS)
    assert {name for advice in (*BY_DATA.values(), *BY_NEED.values()) for name in advice.encoders} <= set(
        ENCODERS
    )
    assert known_data_set("covid_qu_ex") == known_data_set("COVID-QU-Ex") == "COVID-QU-Ex"
    assert known_data_set("phantom") is None


def test_advice_is_found_by_data_and_by_need():
    (name, advice), (need, few) = advise("mimic-cxr", "few-shot")
    assert (name, advice.encoders) == ("MIMIC-CXR", ("medclip-vit", "biovil", "gloria"))
    assert (need, few.encoders) == ("few-shot", ("medclip-vit",))
