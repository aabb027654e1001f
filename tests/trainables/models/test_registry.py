"""Encoders by name: the literal tables resolve, and a wrong name is answered with the right ones."""

from __future__ import annotations

import importlib

import pytest

from trainables.config import EncoderConfig
from trainables.errors import ConfigError, WeightsUnavailable
from trainables.models.load import load_dual_encoder
from trainables.models.registry import ENCODERS, FAMILIES, encoder_fingerprint, find_encoder, preprocessing_of


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_loader_and_every_all_preset_exists(family):
    module, _, function = family.loader.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert "all" in family.image.presets
    assert "all" in family.text.presets


def test_hub_encoders_are_pinned():
    for name, spec in ENCODERS.items():
        assert spec.family in FAMILIES
        assert spec.files or (spec.revision and len(spec.revision) == 40), name


@pytest.mark.parametrize("name", ["lite0-minilmm", "no such thing", "dual:resnet18", "/no/such/folder"])
def test_an_unknown_name_is_answered_with_the_known_ones(name):
    with pytest.raises(
        ConfigError, match=rf"encoder\.name: '{name}' is no registered .*lite0-minilm.*FOLDER"
    ):
        find_encoder(EncoderConfig(name=name))


def test_fingerprints_tell_encoders_sizes_and_revisions_apart():
    configs = [EncoderConfig(name=name) for name in ENCODERS]
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


def test_registered_weights_that_are_not_here_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        WeightsUnavailable, match=r"hf download openai/clip-vit-base-patch32 --revision c237dc49"
    ):
        load_dual_encoder(EncoderConfig(name="openai/clip-vit-base-patch32"))
