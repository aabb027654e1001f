"""Adapters: nothing changes at the start, what should train trains, and merging keeps the outputs."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import normalize

from trainables.config import EncoderConfig, from_flat
from trainables.errors import ConfigError
from trainables.models.adapters.liveness import prove_alive
from trainables.models.adapters.lora import attach, merge
from trainables.models.catalogue.registry import FAMILIES
from trainables.models.encoders.load import load_dual_encoder

pytestmark = pytest.mark.kernels

BOTH = {"lora.towers": "both", "lora.num_blocks": 2}


@pytest.fixture(params=["clip", "lite0", "vit"])
def encoder(request: pytest.FixtureRequest):
    if request.param == "vit":
        folder = request.getfixturevalue("bert_folder")
        return load_dual_encoder(EncoderConfig(name=f"dual:test_vit+{folder}", image_size=160), weights=False)
    return request.getfixturevalue(request.param)


@torch.no_grad()
def embed(encoder, images, texts) -> torch.Tensor:
    return torch.cat([encoder.encode_image(images).joint, encoder.encode_text(encoder.tokenize(texts))])


def randomise(adaptation) -> None:
    """Sets every B as if it had been trained."""
    random = torch.Generator().manual_seed(0)
    for name, parameter in adaptation.parameters.items():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02, generator=random)


def test_adapters_change_nothing_at_the_start_and_something_later(encoder, images_for, texts):
    images = images_for(encoder)
    before = embed(encoder, images, texts)
    adaptation = attach(encoder, from_flat(BOTH))
    assert torch.equal(embed(encoder, images, texts), before)
    randomise(adaptation)
    assert not torch.allclose(embed(encoder, images, texts), before, atol=1e-3)


@pytest.mark.parametrize("rslora", [False, True])
def test_merged_equals_unmerged(encoder, images_for, texts, rslora):
    images = images_for(encoder)
    adaptation = attach(encoder, from_flat({**BOTH, "lora.use_rslora": rslora}))
    randomise(adaptation)
    unmerged = embed(encoder, images, texts)
    merge(encoder)
    torch.testing.assert_close(embed(encoder, images, texts), unmerged, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("none", set()),
        ("projection", {"projection", "scale"}),
        ("lora", {"lora", "scale"}),
        ("lora+projection", {"lora", "projection", "scale"}),
    ],
)
def test_a_method_trains_what_it_says(encoder, method, expected):
    adaptation = attach(encoder, from_flat({"adapt.method": method, **BOTH}))
    kinds = {
        "lora" if "lora_" in name else "scale" if "logit_scale" in name else "projection"
        for name in adaptation.parameters
    }
    assert kinds == expected
    trainable = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in adaptation.parameters.values()}
    assert adaptation.num_trainable == sum(p.numel() for p in trainable)


def test_only_adapted_towers_are_said_to_be_adapted(lite0, clip):
    assert [
        (adaptation.adapts_image, adaptation.adapts_text, adaptation.image_cut)
        for adaptation in (
            attach(lite0, from_flat({"adapt.method": "projection"})),
            attach(lite0, from_flat({"lora.towers": "text", "adapt.method": "lora"})),
        )
    ] == [(True, False, 8), (False, True, 8)]
    assert attach(clip, from_flat({"adapt.method": "projection"})).adapts_text  # CLIP projects its texts too


@pytest.mark.parametrize(("preset", "cut"), [("all", 5), ("head", 7)])
def test_the_cut_lies_below_the_lowest_adapter(lite0, preset, cut):
    assert attach(lite0, from_flat({"lora.target_modules": preset, "lora.num_blocks": 3})).image_cut == cut


def test_the_published_count_of_trainable_weights(lite0):
    """Rank 8 on stages 5-6, the head and the projection, as in the prototype that the goals come from."""
    assert attach(lite0, from_flat({"lora.rank": 8})).num_trainable == 604_929


def test_strength_is_alpha_over_rank(clip):
    attach(clip, from_flat({"lora.rank": 4, "lora.scaling": 3.0, "lora.num_blocks": 1}))
    layer = clip.get_submodule("model.vision_model.encoder.layers.1.mlp.fc1")
    assert (layer.scaling["default"], layer.lora_alpha["default"]) == (3.0, 12.0)


def test_rslora_divides_by_the_root_of_the_rank(clip):
    attach(
        clip, from_flat({"lora.rank": 4, "lora.scaling": 3.0, "lora.num_blocks": 1, "lora.use_rslora": True})
    )
    layer = clip.get_submodule("model.vision_model.encoder.layers.1.mlp.fc1")
    assert layer.scaling["default"] == pytest.approx(3.0 * 4 / math.sqrt(4))


def test_the_seed_alone_draws_the_adapters(clip_folder):
    def matrices(seed: int) -> torch.Tensor:
        encoder = load_dual_encoder(EncoderConfig(name=str(clip_folder)))
        torch.rand(seed + 1)  # what the process drew before must not matter
        adaptation = attach(encoder, from_flat({"seed": seed, "lora.num_blocks": 1}))
        return torch.cat([p.flatten() for name, p in adaptation.parameters.items() if "lora_A" in name])

    state = torch.get_rng_state()
    assert torch.equal(matrices(0), matrices(0))
    assert not torch.equal(matrices(0), matrices(1))
    torch.set_rng_state(state)
    torch.rand(1)
    drawn = torch.get_rng_state()
    torch.set_rng_state(state)
    load_dual_encoder(EncoderConfig(name=str(clip_folder)))
    torch.rand(1)
    assert torch.equal(torch.get_rng_state(), drawn)


def test_the_logit_scale_starts_and_stays_as_configured(clip):
    own = clip.log_logit_scale.item()
    attach(clip, from_flat({"adapt.method": "none", "loss.logit_scale": 10.0}))
    assert clip.log_logit_scale.item() == own  # a frozen encoder reads no loss
    fixed = from_flat(
        {"adapt.method": "projection", "loss.logit_scale": 10.0, "loss.learn_logit_scale": False}
    )
    assert not any("logit_scale" in name for name in attach(clip, fixed).parameters)
    assert clip.log_logit_scale.item() == pytest.approx(math.log(10))


@pytest.mark.parametrize("family", ["clip", "lite0"])
def test_every_preset_is_alive_on_every_tower(family, request, images_for, texts):
    """What `check_targets` takes for granted about families with known names."""
    presets = {
        (tower, preset) for tower in ("image", "text") for preset in FAMILIES[family].tower(tower).presets
    }
    adapted = request.getfixturevalue(family)
    images, tokens = images_for(adapted), adapted.tokenize(texts)
    plain = {name: parameter.detach().clone() for name, parameter in adapted.named_parameters()}
    for tower, preset in sorted(presets):
        encoder = _fresh(family, request)
        values = {"lora.towers": tower, "lora.target_modules": preset, "lora.num_blocks": None}
        adaptation = attach(encoder, from_flat(values))
        prove_alive(encoder, adaptation, images, tokens)
        assert all(not p.any() for name, p in adaptation.parameters.items() if "lora_B" in name)
        assert all(p.grad is None for p in encoder.parameters())
        now = dict(encoder.named_parameters())
        assert all(
            torch.equal(now.get(name, now.get(_wrapped(name))), value) for name, value in plain.items()
        )


def _fresh(family: str, request: pytest.FixtureRequest):
    if family == "clip":
        return load_dual_encoder(EncoderConfig(name=str(request.getfixturevalue("clip_folder"))))
    return load_dual_encoder(EncoderConfig(image_size=64), store=request.getfixturevalue("store"))


def _wrapped(name: str) -> str:
    module, _, parameter = name.rpartition(".")
    return f"{module}.base_layer.{parameter}"


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_module_that_the_forward_pass_does_not_call_is_named(clip, images_for, texts, tower):
    adaptation = attach(
        clip, from_flat({"lora.towers": tower, "lora.target_modules": "q_proj,fc1", "lora.num_blocks": 1})
    )
    half = "vision_model" if tower == "image" else "text_model"
    mlp = clip.get_submodule(f"model.{half}.encoder.layers.1.mlp")
    mlp.forward = lambda states: mlp.fc2(
        mlp.activation_fn(mlp.fc1.base_layer(states))
    )  # as a fused kernel would
    with pytest.raises(ConfigError, match=rf"{tower} tower .*ignores: mlp\.fc1 .*layers\.1\.mlp\.fc1"):
        prove_alive(clip, adaptation, images_for(clip), clip.tokenize(texts))


def test_the_proof_restores_trained_adapters_and_mode(clip, images_for, texts):
    adaptation = attach(clip, from_flat({**BOTH, "lora.dropout": 0.3}))
    randomise(adaptation)
    before = {name: p.detach().clone() for name, p in adaptation.parameters.items()}
    clip.train()
    prove_alive(clip, adaptation, images_for(clip), clip.tokenize(texts))
    assert clip.training
    assert all(torch.equal(p, before[name]) for name, p in adaptation.parameters.items())


@torch.no_grad()
def test_embeddings_are_unit_length(encoder, images_for, texts):
    joint = embed(encoder, images_for(encoder), texts)
    torch.testing.assert_close(joint, normalize(joint, dim=-1))


@pytest.mark.parametrize("towers", ["image", "text", "both"])
def test_full_trains_every_weight_of_its_towers_and_no_other(encoder, images_for, texts, towers):
    adaptation = attach(encoder, from_flat({"adapt.method": "full", "adapt.towers": towers}))
    beginnings = encoder.towers()
    trained = set(adaptation.parameters) - {"log_logit_scale", "model.logit_scale"}
    wanted = [tower for tower in ("image", "text") if towers in (tower, "both")]
    assert trained == {
        name for name, _ in encoder.named_parameters()
        for tower in wanted if name.startswith(beginnings[tower])
    }  # fmt: skip
    assert (adaptation.adapts_image, adaptation.adapts_text) == ("image" in wanted, "text" in wanted)
    everything = {name for name, _ in encoder.named_parameters()} - {"log_logit_scale", "model.logit_scale"}
    assert everything == {n for n in everything if n.startswith(beginnings["image"] + beginnings["text"])}
    images = encoder.encode_image(images_for(encoder)).joint
    embeddings = torch.cat([images, encoder.encode_text(encoder.tokenize(texts))])
    (embeddings * torch.randn(embeddings.shape)).sum().backward()
    reached = {name for name in trained if adaptation.parameters[name].grad is not None}
    assert all("pooler" in name for name in trained - reached)  # BERT's, which sentence encoders do not use
    assert adaptation.image_cut == (0 if "image" in wanted else len(encoder.blocks("image")))


def test_full_refuses_to_train_weights_in_bfloat16(clip):
    del clip
    with pytest.raises(ValidationError, match=r"encoder.precision=bfloat16 .* set it to float32"):
        from_flat({"adapt.method": "full", "encoder.precision": "bfloat16"})


def test_the_backward_pass_ends_below_the_lowest_adapted_layer(clip, images_for):
    """Frozen layers below keep nothing for a backward pass, in either tower."""
    adaptation = attach(clip, from_flat({**BOTH, "lora.num_blocks": 1}))
    called = []
    for tower, half in (("image", "vision_model"), ("text", "text_model")):
        lowest = clip.get_submodule(f"model.{half}.encoder.layers.0")
        lowest.register_forward_hook(lambda m, i, out, tower=tower: called.append((tower, out.requires_grad)))
    clip.encode_image(images_for(clip)).joint.sum().backward()
    clip.encode_text(clip.tokenize(["a lung"])).sum().backward()
    assert called == [("image", False), ("text", False)]
    assert all(p.grad is not None for name, p in adaptation.parameters.items() if "lora_B" in name)
