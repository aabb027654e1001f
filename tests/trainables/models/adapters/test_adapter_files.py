"""A saved adapter: whole, readable by PEFT alone, and only loaded onto the encoder it was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from comparisons import ROUNDED, assert_same_weights
from torch.nn.functional import normalize

from trainables.config import EncoderConfig, TrialConfig, from_flat
from trainables.errors import ConfigError, DataError
from trainables.models.adapters.adapter_files import load_adapter, save_adapter
from trainables.models.adapters.lora import attach
from trainables.models.encoders.dual_encoder import DualEncoder
from trainables.models.encoders.load import load_dual_encoder

pytestmark = pytest.mark.kernels

VALUES = {"lora.towers": "both", "lora.num_blocks": 2, "lora.rank": 4}


def fresh(folder: Path) -> DualEncoder:
    return load_dual_encoder(EncoderConfig(name=str(folder)))


def train_and_save(encoder: DualEncoder, config: TrialConfig, folder: Path) -> None:
    """Stands in for training: every trainable weight gets noise."""
    adaptation = attach(encoder, config)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adaptation.parameters.values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))
    save_adapter(encoder, adaptation, folder, about={"classes": ["Normal"], "metrics": {"train/loss": 1.0}})


@torch.no_grad()
def embed(encoder: DualEncoder, images, texts) -> torch.Tensor:
    joint = encoder.encode_image(images).joint
    return encoder.log_logit_scale.exp() * joint @ encoder.encode_text(encoder.tokenize(texts)).T


@pytest.mark.parametrize("method", ["projection", "lora", "lora+projection"])
@pytest.mark.parametrize("is_attached", [False, True])
def test_a_loaded_adapter_gives_the_same_logits(
    clip_folder, tmp_path, images_for, texts, method, is_attached
):
    config = from_flat({**VALUES, "adapt.method": method})
    trained, loaded = fresh(clip_folder), fresh(clip_folder)
    train_and_save(trained, config, tmp_path / "adapter")
    if is_attached:
        attach(loaded, config)
    load_adapter(loaded, tmp_path / "adapter")
    assert_same_weights(loaded, trained)
    images = images_for(trained)
    torch.testing.assert_close(embed(loaded, images, texts), embed(trained, images, texts))
    assert not torch.allclose(
        embed(fresh(clip_folder), images, texts), embed(trained, images, texts), atol=1e-3
    )


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing:FutureWarning"
)  # PEFT 0.21 asks transformers for it
@torch.no_grad()
def test_peft_reads_it_without_this_project(clip_folder, tmp_path, images_for):
    from peft import PeftModel
    from transformers import CLIPModel

    trained = fresh(clip_folder)
    train_and_save(trained, from_flat({**VALUES, "adapt.method": "lora"}), tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(CLIPModel.from_pretrained(clip_folder).eval(), tmp_path / "adapter")
    images = images_for(trained)
    features = theirs.get_image_features(pixel_values=trained.pixels(images)).pooler_output
    joint = trained.encode_image(images).joint
    torch.testing.assert_close(normalize(features, dim=-1), joint, **ROUNDED)


def test_lite0_adapters_are_peft_files_too(lite0, store, tmp_path, images_for, texts):
    from peft import PeftModel

    train_and_save(lite0, from_flat({"lora.towers": "both", "adapt.method": "lora"}), tmp_path / "adapter")
    other = load_dual_encoder(EncoderConfig(image_size=64), store=store)
    PeftModel.from_pretrained(other, tmp_path / "adapter")
    other.log_logit_scale.data.copy_(lite0.log_logit_scale)
    images = images_for(lite0)
    torch.testing.assert_close(embed(other, images, texts), embed(lite0, images, texts))


def test_it_says_what_it_belongs_to_and_holds_no_pickle(clip_folder, tmp_path):
    encoder = fresh(clip_folder)
    train_and_save(encoder, from_flat(VALUES), tmp_path / "adapter")
    about = json.loads((tmp_path / "adapter" / "about.json").read_text())
    assert about["encoder_fingerprint"] == encoder.fingerprint
    assert about["preprocessing"]["size"] == 32
    assert (about["classes"], about["method"]) == (["Normal"], "lora+projection")
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "extra.safetensors", "manifest.json"} <= files
    assert {path.suffix for path in (tmp_path / "adapter").iterdir()} <= {".safetensors", ".json", ".md"}


def test_another_encoder_is_refused(clip_folder, tmp_path):
    train_and_save(fresh(clip_folder), from_flat(VALUES), tmp_path / "adapter")
    other = load_dual_encoder(EncoderConfig(name=str(clip_folder), image_size=64))
    with pytest.raises(ConfigError, match=r"Adapter adapter was trained on .*; this run loads"):
        load_adapter(other, tmp_path / "adapter")


def test_other_adapters_on_the_encoder_are_refused(clip_folder, tmp_path):
    train_and_save(fresh(clip_folder), from_flat(VALUES), tmp_path / "adapter")
    other = fresh(clip_folder)
    attach(other, from_flat({**VALUES, "lora.rank": 2}))
    with pytest.raises(ConfigError, match="another rank"):
        load_adapter(other, tmp_path / "adapter")


def test_a_damaged_adapter_is_refused(clip_folder, tmp_path):
    train_and_save(fresh(clip_folder), from_flat(VALUES), tmp_path / "adapter")
    with (tmp_path / "adapter" / "adapter_model.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(DataError, match=r"adapter_model\.safetensors: this file is missing or has changed"):
        load_adapter(fresh(clip_folder), tmp_path / "adapter")
