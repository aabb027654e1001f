"""open_clip's transformers: right embeddings, attention split on loading, weights that are safe to read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from comparisons import EXACT
from float64 import in_float64
from torch.nn.functional import normalize

from trainables.config import EncoderConfig, from_flat
from trainables.errors import ConfigError, WeightsUnavailable
from trainables.models.adapters.check_targets import check_targets
from trainables.models.adapters.targets import resolve_targets
from trainables.models.catalogue.availability import availability_of, hub_repositories
from trainables.models.catalogue.registry import preprocessing_of
from trainables.models.encoders.dual_encoder import DualEncoder
from trainables.models.encoders.load import load_dual_encoder

pytestmark = pytest.mark.kernels


@pytest.fixture
def model(open_clip_folder: Path) -> DualEncoder:
    return load_dual_encoder(EncoderConfig(name=f"open_clip:{open_clip_folder}"))


@torch.no_grad()
def test_embeddings_equal_those_of_open_clip_at_every_cut(model, open_clip_folder, images_for, texts):
    import open_clip

    theirs = open_clip.create_model(f"local-dir:{open_clip_folder}").eval().double()
    pixels = in_float64(model).pixels(images_for(model))
    expected = normalize(theirs.encode_image(pixels), dim=-1)
    for cut in range(4):
        joint = model.encode_image_suffix(model.encode_image_prefix(pixels, cut), cut).joint
        torch.testing.assert_close(joint, expected, **EXACT)
    tokens = model.tokenize(texts)
    expected = normalize(theirs.encode_text(tokens.input_ids), dim=-1)
    torch.testing.assert_close(model.encode_text(tokens), expected, **EXACT)
    assert model.log_logit_scale.item() == theirs.logit_scale.item()


@torch.no_grad()
def test_another_image_size_gives_the_embeddings_of_open_clip(open_clip_folder, images_for):
    import open_clip

    larger = load_dual_encoder(EncoderConfig(name=f"open_clip:{open_clip_folder}", image_size=64))
    theirs = open_clip.create_model(f"local-dir:{open_clip_folder}", force_image_size=64).eval().double()
    pixels = in_float64(larger).pixels(images_for(larger))
    joint = larger.encode_image_suffix(pixels, 0).joint
    torch.testing.assert_close(joint, normalize(theirs.encode_image(pixels), dim=-1), **EXACT)


def test_preprocessing_is_the_folders(model, open_clip_folder):
    assert preprocessing_of(EncoderConfig(name=f"open_clip:{open_clip_folder}")) == model.preprocessing
    assert (model.preprocessing.size, model.preprocessing.mean[0]) == (32, 0.4)


@pytest.mark.parametrize("towers", ["image", "text", "both"])
def test_layers_that_were_fused_are_targets_one_by_one(open_clip_folder, towers):
    config = {"encoder.name": f"open_clip:{open_clip_folder}", "lora.towers": towers, "lora.num_blocks": 2}
    for alive in ("out_proj", "q_proj", "k_proj,c_fc"):
        check_targets(from_flat({**config, "lora.target_modules": alive, "lora.dropout": 0.1}))


def test_names_of_the_other_library_match_nothing(model):
    config = from_flat({"lora.target_modules": "q_proj,fc1", "lora.num_blocks": 2})
    with pytest.raises(ConfigError, match=r"fc1 matches no module.*known leaf names: .*attn\.q_proj.*c_fc"):
        resolve_targets(model, config.lora)


def test_an_unknown_architecture_or_tag_is_named():
    with pytest.raises(ConfigError, match="no architecture 'ViT-B-33'"):
        load_dual_encoder(EncoderConfig(name="open_clip:ViT-B-33@openai"), weights=False)
    with pytest.raises(ConfigError, match="names no weights"):
        load_dual_encoder(EncoderConfig(name="open_clip:ViT-B-32"))
    with pytest.raises(ConfigError, match=r"no weights 'laion' of ViT-B-32 .*laion2b_s34b_b79k"):
        load_dual_encoder(EncoderConfig(name="open_clip:ViT-B-32@laion"), weights=False)
    with pytest.raises(ConfigError, match="ViT-B-32-quickgelu"):
        load_dual_encoder(EncoderConfig(name="open_clip:ViT-B-32@openai"), weights=False)


def test_an_image_encoder_that_is_not_open_clips_own_is_refused(open_clip_folder, tmp_path):
    config = json.loads((open_clip_folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"] = {"timm_model_name": "test_vit", "image_size": 160}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="not a CLIP with open_clip's own vision transformer or ResNet"):
        load_dual_encoder(EncoderConfig(name=f"open_clip:{tmp_path}"), weights=False)


def test_a_damaged_file_is_refused(open_clip_folder, tmp_path):
    folder = Path(shutil.copytree(open_clip_folder, tmp_path / "cut"))
    path = folder / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsUnavailable, match="cannot be read as tensors"):
        load_dual_encoder(EncoderConfig(name=f"open_clip:{folder}"))


def test_pickled_weights_are_not_read(open_clip_folder, tmp_path):
    (tmp_path / "open_clip_config.json").write_text((open_clip_folder / "open_clip_config.json").read_text())
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsUnavailable, match="found none"):
        load_dual_encoder(EncoderConfig(name=f"open_clip:{tmp_path}"))


def test_a_tag_is_here_where_its_repository_is_cached(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = EncoderConfig(name="open_clip:ViT-B-32@laion2b_s34b_b79k")
    (repository,) = hub_repositories(config.name)
    assert availability_of(config).reason == f"{repository} not in the Hub's cache on this machine"
    snapshot = tmp_path / f"models--{repository.replace('/', '--')}" / "snapshots" / ("1" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "open_clip_model.safetensors").touch()
    assert availability_of(config.model_copy(update={"revision": "1" * 40})).status == "in cache"
    nowhere = availability_of(EncoderConfig(name="open_clip:ViT-B-32@no_such_tag"))
    assert "open_clip has no weights 'no_such_tag' of ViT-B-32" in nowhere.reason
