"""SigLIP against transformers' own forward pass, on a narrow checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from comparisons import EXACT, ROUNDED, assert_same_weights
from float64 import in_float64
from torch.nn.functional import normalize

from trainables.config import EncoderConfig, from_flat
from trainables.models.adapters.adapter_files import load_adapter, save_adapter
from trainables.models.adapters.liveness import prove_alive
from trainables.models.adapters.lora import attach
from trainables.models.catalogue.registry import FAMILIES
from trainables.models.encoders.dual_encoder import DualEncoder
from trainables.models.encoders.hf_siglip import HFSiglip
from trainables.models.encoders.load import load_dual_encoder

pytestmark = pytest.mark.kernels


@pytest.fixture
def siglip(siglip_folder: Path) -> DualEncoder:
    return load_dual_encoder(EncoderConfig(name=str(siglip_folder)))


@torch.no_grad()
def test_embeddings_equal_those_of_transformers_at_every_cut(siglip, images_for, texts):
    from transformers import SiglipModel

    assert isinstance(siglip, HFSiglip)
    model = SiglipModel.from_pretrained(siglip.name).eval().double()
    pixels = in_float64(siglip).pixels(images_for(siglip))
    theirs = model.get_image_features(pixel_values=pixels).pooler_output
    for cut in range(len(siglip.blocks("image")) + 1):
        found = siglip.encode_image_suffix(siglip.encode_image_prefix(pixels, cut), cut)
        torch.testing.assert_close(found.pooled, theirs, **EXACT)
        torch.testing.assert_close(found.joint, normalize(theirs, dim=-1), **EXACT)
    tokens = siglip.tokenize(texts)
    theirs = model.get_text_features(input_ids=tokens.input_ids).pooler_output
    torch.testing.assert_close(siglip.encode_text(tokens), normalize(theirs, dim=-1), **EXACT)
    assert siglip.log_logit_scale.item() == model.logit_scale.item()


@torch.no_grad()
def test_a_text_alone_is_the_text_in_a_batch(siglip, texts):
    alone = torch.cat([siglip.encode_text(siglip.tokenize([text])) for text in texts])
    torch.testing.assert_close(siglip.encode_text(siglip.tokenize(texts)), alone, **ROUNDED)
    assert siglip.tokenize(["x"]).input_ids.shape == (1, 40)


def test_its_images_are_squashed_as_it_was_trained(siglip):
    assert (siglip.preprocessing.crop, siglip.preprocessing.size) == ("none", 32)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_every_preset_is_alive(siglip_folder, images_for, texts, tower):
    for preset in FAMILIES["clip"].tower(tower).presets:
        siglip = load_dual_encoder(EncoderConfig(name=str(siglip_folder)))
        values = {"lora.towers": tower, "lora.target_modules": preset, "lora.num_blocks": None}
        prove_alive(siglip, attach(siglip, from_flat(values)), images_for(siglip), siglip.tokenize(texts))


@torch.no_grad()
def test_its_adapter_and_its_pooling_come_back_from_disk(siglip, siglip_folder, images_for, tmp_path):
    adaptation = attach(siglip, from_flat({"lora.towers": "both", "lora.num_blocks": 1}))
    for parameter in adaptation.parameters.values():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    save_adapter(siglip, adaptation, tmp_path / "adapter", about={})
    again = load_dual_encoder(EncoderConfig(name=str(siglip_folder)))
    before = again.encode_image(images_for(again)).joint
    load_adapter(again, tmp_path / "adapter")
    assert_same_weights(again, siglip)
    trained = siglip.encode_image(images_for(siglip)).joint
    torch.testing.assert_close(again.encode_image(images_for(again)).joint, trained, **ROUNDED)
    assert not torch.allclose(before, trained, atol=1e-3)
