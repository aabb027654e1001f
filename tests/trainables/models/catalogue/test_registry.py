"""Encoders by name: the literal tables resolve, and a wrong name is answered with the right ones."""

from __future__ import annotations

import importlib

import pytest

from trainables.config import EncoderConfig
from trainables.errors import ConfigError, WeightsUnavailable
from trainables.models.catalogue.registry import (
    ENCODERS,
    FAMILIES,
    encoder_fingerprint,
    find_encoder,
    preprocessing_of,
)
from trainables.models.encoders.load import load_dual_encoder
from trainables.models.encoders.structure import structure_of


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_loader_and_every_all_preset_exists(family):
    module, _, function = family.loader.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert "all" in family.image.presets
    assert "all" in family.text.presets


def test_hub_encoders_are_pinned():
    for name, spec in ENCODERS.items():
        assert spec.family in FAMILIES
        pinned = spec.files or spec.parts or (spec.revision and len(spec.revision) == 40)
        assert bool(pinned) == spec.is_pinned, name


def test_an_encoder_without_a_tested_revision_asks_for_one():
    name = "flaviagiammarino/pubmed-clip-vit-base-patch32"
    with pytest.raises(WeightsUnavailable, match=r"no commit of https.* name one as encoder\.revision$"):
        load_dual_encoder(EncoderConfig(name=name))
    named = EncoderConfig(name=name, revision="1" * 40)
    assert encoder_fingerprint(named) != encoder_fingerprint(EncoderConfig(name=name))


@pytest.mark.parametrize("name", ["lite0-minilmm", "no such thing", "dual:resnet18", "/no/such/folder"])
def test_an_unknown_name_is_answered_with_the_known_ones(name):
    with pytest.raises(
        ConfigError, match=rf"encoder\.name: '{name}' is not a registered .*lite0-minilm.*FOLDER"
    ):
        find_encoder(EncoderConfig(name=name))


def test_fingerprints_tell_encoders_sizes_and_revisions_apart(home):
    configs = [
        EncoderConfig(name=name, revision=None if spec.is_pinned else "1" * 40)
        for name, spec in ENCODERS.items()
    ]
    configs += [
        EncoderConfig(image_size=96),
        EncoderConfig(name="openai/clip-vit-base-patch32", revision="0" * 40),
    ]
    fingerprints = [encoder_fingerprint(config) for config in configs]
    assert len(set(fingerprints)) == len(fingerprints)
    assert fingerprints == [encoder_fingerprint(config) for config in configs]


def test_registered_encoders_say_their_preprocessing_without_their_weights():
    clip = preprocessing_of(EncoderConfig(name="openai/clip-vit-base-patch32"))
    assert (clip.size, clip.interpolation, clip.mean[0]) == (224, "bicubic", 0.48145466)
    assert preprocessing_of(EncoderConfig(image_size=96)).size == 96
    large = preprocessing_of(EncoderConfig(name="openai/clip-vit-large-patch14-336"))
    assert (large.size, large.mean) == (336, clip.mean)


@pytest.mark.parametrize(
    "name", [name for name, spec in ENCODERS.items() if spec.architecture and not spec.parts]
)
def test_what_is_published_of_an_encoder_is_what_it_is_built_of(name):
    """Parameters and widths as published; the structure is what the loader builds (`test_footprint`)."""
    spec, structure = ENCODERS[name], structure_of(EncoderConfig(name=name))
    assert structure.num_parameters == spec.num_parameters
    projection = spec.pooled_dim * spec.joint_dim
    assert structure.projection_parameters["image"] in (projection, projection + spec.joint_dim)
    assert structure.projection_parameters["text"] % spec.joint_dim == 0


def test_an_encoder_without_a_tested_commit_asks_for_one(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = "open_clip:RN101-quickgelu@openai"
    with pytest.raises(WeightsUnavailable, match=r"no commit of timm/resnet101_clip\.openai .*openai:FILE"):
        load_dual_encoder(EncoderConfig(name=name))
    with pytest.raises(WeightsUnavailable, match=r"hf download timm/resnet101_clip\.openai --revision aaaa"):
        load_dual_encoder(EncoderConfig(name=name, revision="a" * 40))


def test_registered_weights_that_are_not_here_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, wanted in {
        "openai/clip-vit-base-patch32": "openai/clip-vit-base-patch32 --revision c237dc49",
        "openai/clip-vit-large-patch14-336": r"timm/vit_large_patch14_clip_336\.openai --revision 81e38efc",
        "open_clip:RN50-quickgelu@openai": r"timm/resnet50_clip\.openai --revision ec3d92cf",
    }.items():
        with pytest.raises(WeightsUnavailable, match=f"hf download {wanted}"):
            load_dual_encoder(EncoderConfig(name=name))
