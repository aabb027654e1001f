"""open_clip as it is: right embeddings, and its fused attention caught before it wastes a trial."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from trainables.config import EncoderConfig, from_flat
from trainables.errors import ConfigError, WeightsUnavailable
from trainables.models.dual_encoder import DualEncoder
from trainables.models.load import load_dual_encoder
from trainables.models.lora import attach, check_targets, prove_alive
from trainables.models.registry import preprocessing_of


@pytest.fixture
def model(open_clip_folder: Path) -> DualEncoder:
    return load_dual_encoder(EncoderConfig(name=f"open_clip:{open_clip_folder}"))


@torch.no_grad()
def test_embeddings_equal_those_of_open_clip_at_every_cut(model, open_clip_folder, images_for, texts):
    import open_clip

    theirs = open_clip.create_model(f"local-dir:{open_clip_folder}").eval()
    pixels = model.pixels(images_for(model))
    expected = normalize(theirs.encode_image(pixels), dim=-1)
    for cut in range(4):
        joint = model.encode_image_suffix(model.encode_image_prefix(pixels, cut), cut).joint
        torch.testing.assert_close(joint, expected, rtol=0, atol=1e-6)
    tokens = model.tokenize(texts)
    expected = normalize(theirs.encode_text(tokens.input_ids), dim=-1)
    torch.testing.assert_close(model.encode_text(tokens), expected, rtol=0, atol=1e-6)
    assert model.log_logit_scale.item() == theirs.logit_scale.item()


def test_preprocessing_is_the_folders(model, open_clip_folder):
    assert preprocessing_of(EncoderConfig(name=f"open_clip:{open_clip_folder}")) == model.preprocessing
    assert (model.preprocessing.size, model.preprocessing.mean[0]) == (32, 0.4)


@pytest.mark.parametrize("towers", ["image", "text", "both"])
def test_an_adapter_that_the_forward_pass_ignores_is_refused_before_anything_starts(open_clip_folder, towers):
    config = {"encoder.name": f"open_clip:{open_clip_folder}", "lora.towers": towers, "lora.num_blocks": 2}
    for ignored in ("out_proj", "c_fc,out_proj"):
        with pytest.raises(ConfigError, match=r"forward pass ignores: attn\.out_proj"):
            check_targets(from_flat({**config, "lora.target_modules": ignored}))
    for alive in ("attn", "mlp", "all"):
        check_targets(from_flat({**config, "lora.target_modules": alive}))


def test_names_of_split_attention_match_nothing(open_clip_folder):
    config = {"encoder.name": f"open_clip:{open_clip_folder}", "lora.target_modules": "q_proj,c_fc"}
    with pytest.raises(ConfigError, match=r"q_proj matches no module.*leaf names there: .*c_fc"):
        check_targets(from_flat(config))


def test_the_proof_leaves_fused_attention_alive(model, images_for, texts):
    adaptation = attach(model, from_flat({"lora.target_modules": "attn", "lora.num_blocks": 2}))
    prove_alive(model, adaptation, images_for(model), model.tokenize(texts))
    assert {name.rsplit("lora_")[-1][0] for name in adaptation.parameters if "lora_" in name} == {"A", "B"}


def test_dropout_that_fused_attention_would_ignore_is_refused(model):
    with pytest.raises(ConfigError, match=r"lora\.dropout: PEFT ignores it"):
        attach(model, from_flat({"lora.target_modules": "attn", "lora.dropout": 0.1}))


def test_an_unknown_architecture_or_tag_is_named(open_clip_folder):
    with pytest.raises(ConfigError, match="no architecture 'ViT-B-33'"):
        load_dual_encoder(EncoderConfig(name="open_clip:ViT-B-33@openai"), weights=False)
    with pytest.raises(ConfigError, match="names no weights"):
        load_dual_encoder(EncoderConfig(name="open_clip:ViT-B-32"))
    with pytest.raises(ConfigError, match=r"no weights 'laion' of ViT-B-32 .*laion2b_s34b_b79k"):
        load_dual_encoder(EncoderConfig(name="open_clip:ViT-B-32@laion"), weights=False)
    with pytest.raises(ConfigError, match="ViT-B-32-quickgelu"):
        load_dual_encoder(EncoderConfig(name="open_clip:ViT-B-32@openai"), weights=False)


def test_pickled_weights_are_not_read(open_clip_folder, tmp_path):
    (tmp_path / "open_clip_config.json").write_text((open_clip_folder / "open_clip_config.json").read_text())
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsUnavailable, match="found none"):
        load_dual_encoder(EncoderConfig(name=f"open_clip:{tmp_path}"))
