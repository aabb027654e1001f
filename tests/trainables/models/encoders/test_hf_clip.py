"""The CLIP family against transformers' own forward pass, on a narrow checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from comparisons import EXACT, ROUNDED
from float64 import in_float64
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from trainables.config import EncoderConfig
from trainables.errors import ConfigError, WeightsUnavailable
from trainables.models.catalogue.registry import encoder_fingerprint, preprocessing_of
from trainables.models.encoders.load import load_dual_encoder

pytestmark = pytest.mark.kernels


@pytest.fixture
def changed(clip_folder: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, to be spoilt."""
    return Path(shutil.copytree(clip_folder, tmp_path / "changed"))


@torch.no_grad()
def test_embeddings_equal_those_of_transformers(clip, images_for, texts):
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(clip.name).eval().double()
    images = images_for(clip)
    features = in_float64(clip).encode_image(images)
    pixels = ((images.double() / 255 - 0.4) / 0.2).unsqueeze(1).expand(-1, 3, -1, -1)
    theirs = model.get_image_features(pixel_values=pixels)
    pixels_agree = {"rtol": 0, "atol": 1e-6}  # ours are normalised in float32
    torch.testing.assert_close(features.joint, normalize(theirs.pooler_output, dim=-1), **pixels_agree)
    pooled = model.vision_model(pixel_values=pixels).pooler_output
    torch.testing.assert_close(features.pooled, pooled, rtol=0, atol=1e-5)
    tokens = clip.tokenize(texts)
    theirs = model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
    torch.testing.assert_close(clip.encode_text(tokens), normalize(theirs.pooler_output, dim=-1), **EXACT)
    assert clip.log_logit_scale.item() == model.logit_scale.item()


@pytest.mark.parametrize("cut", range(4))
@torch.no_grad()
def test_every_cut_gives_the_same_embeddings(clip, images_for, cut):
    images = images_for(clip)
    whole = clip.encode_image(images)
    activations = clip.encode_image_prefix(clip.pixels(images), cut)
    torch.testing.assert_close(clip.encode_image_suffix(activations, cut), whole, rtol=0, atol=0)
    if cut == len(clip.blocks("image")):
        assert torch.equal(activations, whole.pooled)


@torch.no_grad()
def test_padding_does_not_change_a_text(clip, texts):
    alone = torch.cat([clip.encode_text(clip.tokenize([text])) for text in texts])
    torch.testing.assert_close(clip.encode_text(clip.tokenize(texts)), alone, **ROUNDED)


@torch.no_grad()
def test_texts_longer_than_the_context_are_cut(clip):
    assert clip.tokenize(["opacity " * 100]).input_ids.shape[1] == 48


def test_floats_are_refused(clip, images_for):
    with pytest.raises(TypeError, match="uint8"):
        clip.encode_image(images_for(clip).float())


def test_preprocessing_is_the_checkpoints(clip, clip_folder, changed):
    assert preprocessing_of(EncoderConfig(name=str(clip_folder))) == clip.preprocessing
    assert (clip.preprocessing.size, clip.preprocessing.interpolation) == (32, "bilinear")
    assert clip.preprocessing.mean == (0.4, 0.4, 0.4)
    (changed / "preprocessor_config.json").unlink()
    plain = preprocessing_of(EncoderConfig(name=str(changed)))
    assert (plain.size, plain.interpolation, plain.mean[0]) == (32, "bicubic", 0.48145466)


def test_another_image_size_stretches_the_position_embeddings(clip_folder, images_for):
    larger = load_dual_encoder(EncoderConfig(name=str(clip_folder), image_size=64))
    assert larger.encode_image_prefix(larger.pixels(images_for(larger)), 1).shape == (2, 17, 24)


def test_fingerprint_follows_weights_and_size_but_not_the_place(clip_folder, changed):
    def of(folder: Path, **values: int) -> str:
        return encoder_fingerprint(EncoderConfig(name=str(folder), **values))

    before = of(clip_folder)
    assert of(changed) == before
    assert of(changed, image_size=64) != before
    tensors = load_file(changed / "model.safetensors")
    tensors["logit_scale"] += 1
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    assert of(changed) != before


def test_a_missing_tensor_is_not_replaced_by_a_random_one(changed):
    tensors = load_file(changed / "model.safetensors")
    del tensors["vision_model.encoder.layers.1.mlp.fc1.weight"]
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"1 tensors .*layers\.1\.mlp\.fc1\.weight"):
        load_dual_encoder(EncoderConfig(name=str(changed)))


def test_weights_that_were_cut_short_are_refused(changed):
    path = changed / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsUnavailable, match=r"its safetensors are damaged .* get them again"):
        load_dual_encoder(EncoderConfig(name=str(changed)))


def test_pickled_weights_are_not_read(changed):
    (changed / "model.safetensors").rename(changed / "pytorch_model.bin")
    with pytest.raises(WeightsUnavailable, match="pickles are not read"):
        load_dual_encoder(EncoderConfig(name=str(changed)))


def test_a_checkpoint_of_another_kind_is_refused(changed):
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**config, "model_type": "blip"}))
    with pytest.raises(ConfigError, match="type 'blip'; this family loads 'clip' and 'siglip'"):
        load_dual_encoder(EncoderConfig(name=str(changed)))


def test_a_repository_that_is_not_here_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailable, match="hf download nobody/no-such-clip'"):
        load_dual_encoder(EncoderConfig(name="nobody/no-such-clip"))


def test_a_structure_without_weights_has_random_ones(clip_folder, clip):
    config = EncoderConfig(name=str(clip_folder))
    first, second = (load_dual_encoder(config, weights=False) for _ in range(2))
    assert first.fingerprint == "random"
    weights = [encoder.get_parameter("model.visual_projection.weight") for encoder in (first, second, clip)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
