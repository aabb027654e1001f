"""`data list` and `data show`."""

from __future__ import annotations

import json

import pytest

from orchestrator.cli.app import execute
from trainables.data.datasets import DATASETS
from trainables.models.catalogue.origins import known_data_set

Captured = pytest.CaptureFixture[str]
OWN = ("phantom", "phantom_findings", "image_folder", "manifest", "union")


def test_every_data_set_is_listed_with_its_patients(capsys: Captured) -> None:
    assert execute(["data", "list"]) == 0
    printed = capsys.readouterr().out
    for name in DATASETS:
        assert f"{name}: " in printed
    assert printed.count("    patients: ") == len(DATASETS)


def test_every_public_set_has_every_fact_and_an_origin(capsys: Captured) -> None:
    assert execute(["data", "list", "--json"]) == 0
    for facts in json.loads(capsys.readouterr().out):
        if facts["name"] in OWN:
            continue
        for fact in ("title", "size", "licence", "url", "citation", "layout", "traps"):
            assert facts[fact], (facts["name"], fact)
        assert len(facts["classes"]) >= 2
        assert isinstance(facts["has_patients"], bool)
        assert known_data_set(facts["name"]), facts["name"]


def test_one_set_is_shown_with_traps_and_the_encoders_that_have_seen_it(capsys: Captured) -> None:
    assert execute(["data", "show", "rsna"]) == 0
    printed = capsys.readouterr().out
    assert "classes       Normal, No Lung Opacity / Not Normal, Lung Opacity\n" in printed
    assert "patients      not known; splits and intervals are by image\n" in printed
    assert "note          Target 0 does not mean normal" in printed
    assert "not external  cxr-clip: trained on CXR-CLIP, which shares NIH ChestX-ray14\n" in printed
    assert execute(["data", "show", "montgomery", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["has_patients"]
    assert facts["classes"] == ["Normal", "Tuberculosis"]
    assert facts["task"] == "multiclass"


def test_a_set_with_several_findings_per_image_lists_findings(capsys: Captured) -> None:
    assert execute(["data", "show", "nih14"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("findings      Atelectasis, Cardiomegaly, ") for line in lines)
    assert not any(line.startswith("classes") for line in lines)


def test_an_unknown_name_is_answered_with_the_nearest(capsys: Captured) -> None:
    assert execute(["data", "show", "shenzen"]) == 2
    assert "no data set has this name; did you mean 'shenzhen'?" in capsys.readouterr().err
