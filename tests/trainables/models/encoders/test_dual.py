"""Any timm image encoder joined with any Hugging Face text encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from comparisons import EXACT
from float64 import in_float64
from safetensors.torch import load_file

from trainables.config import EncoderConfig
from trainables.errors import ConfigError
from trainables.models.catalogue.availability import hub_repositories
from trainables.models.encoders.dual_encoder import DualEncoder
from trainables.models.encoders.load import load_dual_encoder

pytestmark = pytest.mark.kernels


@pytest.fixture
def dual(timm_folder: Path, bert_folder: Path) -> DualEncoder:
    return load_dual_encoder(EncoderConfig(name=f"dual:{timm_folder}+{bert_folder}"))


@torch.no_grad()
def test_pooled_features_equal_those_of_timm_at_every_cut(dual, timm_folder, images_for):
    import timm

    model = timm.create_model(f"local-dir:{timm_folder}", pretrained=False).eval()
    model.load_state_dict(load_file(timm_folder / "model.safetensors"))
    model.double()
    pixels = in_float64(dual).pixels(images_for(dual))
    theirs = model.forward_head(model.forward_features(pixels), pre_logits=True)
    for cut in range(len(dual.blocks("image")) + 1):
        activations = dual.encode_image_prefix(pixels, cut)
        pooled, joint = dual.encode_image_suffix(activations, cut)
        torch.testing.assert_close(pooled, theirs, **EXACT)
        assert joint.shape == (2, 24)


def test_batch_norm_keeps_its_statistics_in_training(dual, images_for):
    before = {name: value.clone() for name, value in dual.state_dict().items() if "running" in name}
    dual.train()
    dual.encode_image(images_for(dual))
    after = dual.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("timm_folder", ["test_vit"], indirect=True)
def test_pixels_are_prepared_as_timm_says(dual):
    assert (dual.preprocessing.size, dual.preprocessing.mean) == (160, (0.5, 0.5, 0.5))


def test_an_unknown_timm_model_offers_near_ones(bert_folder):
    with pytest.raises(ConfigError, match=r"no model 'resnet1'.*resnet18"):
        load_dual_encoder(EncoderConfig(name=f"dual:resnet1+{bert_folder}"))


def test_a_name_of_timm_stands_for_a_repository(bert_folder):
    name = f"dual:efficientnet_b0.ra_in1k+{bert_folder}"
    assert hub_repositories(name) == ["timm/efficientnet_b0.ra_in1k"]
