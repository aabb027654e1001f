"""The default encoder: real weights, BatchNorm folded away, zero-shot before any training."""

from __future__ import annotations

import pytest
import torch
from comparisons import ROUNDED
from float64 import in_float64
from torch import nn
from torch.nn.functional import normalize

from trainables.config import EncoderConfig
from trainables.errors import WeightsUnavailable
from trainables.models.catalogue.registry import ENCODERS
from trainables.models.encoders import name_projection
from trainables.models.encoders.lite0 import load_lite0
from trainables.models.encoders.load import load_dual_encoder
from trainables.models.files.checkpoints import package_file

pytestmark = pytest.mark.kernels

LITE0, MINILM = ENCODERS["lite0-minilm"].files.items()


@torch.no_grad()
def test_pooled_features_equal_those_of_timm(lite0, images_for):
    """In float64 all that remains is that folding rounded each weight to float32 once: a relative 6e-8."""
    timm_model = load_lite0(package_file(*LITE0)).double()
    pixels = in_float64(lite0).pixels(images_for(lite0))
    theirs = timm_model.forward_head(timm_model.forward_features(pixels), pre_logits=True)
    activations = lite0.encode_image_prefix(pixels, 5)
    torch.testing.assert_close(lite0.encode_image_suffix(activations, 5).pooled, theirs, rtol=0, atol=1e-5)


@torch.no_grad()
def test_every_cut_gives_the_same_embeddings(lite0, images_for):
    pixels = lite0.pixels(images_for(lite0))
    whole = lite0.encode_image_suffix(pixels, 0)
    for cut in range(len(lite0.blocks("image")) + 1):
        stored = (
            lite0.encode_image_prefix(pixels, cut).numpy().copy()
        )  # what a cache gives back: channels first
        suffix = lite0.encode_image_suffix(torch.from_numpy(stored), cut)
        torch.testing.assert_close(suffix, whole, **ROUNDED)


def test_no_batch_norm_is_left_and_no_dropout_wakes_up(lite0, texts):
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in lite0.modules())
    tokens = lite0.tokenize(texts)
    lite0.train()
    with torch.no_grad():
        assert torch.equal(lite0.encode_text(tokens), lite0.encode_text(tokens))


@torch.no_grad()
def test_text_embeddings_are_means_over_tokens_and_ignore_padding(lite0, texts):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(package_file(*MINILM).parent)
    for text, embedding in zip(texts, lite0.encode_text(lite0.tokenize(texts)), strict=True):
        states = model(input_ids=lite0.tokenize([text]).input_ids).last_hidden_state[0]
        torch.testing.assert_close(embedding, normalize(states.mean(0), dim=0), **ROUNDED)


@torch.no_grad()
def test_untrained_projection_agrees_with_conse_about_classes_by_name(lite0):
    """Reference: ConSE, the ten most believed classes' embeddings weighted by probability. Chance: .001."""
    classifier = load_lite0(package_file(*LITE0)).classifier
    names = name_projection.class_embeddings(lite0.text)
    mixed = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([6.0, 3.0, 3.0])
    classes = torch.randint(1000, (200, 3), generator=torch.Generator().manual_seed(1))
    directions = normalize(classifier.weight - classifier.weight.mean(0), dim=-1)
    pooled = (0.3 + torch.einsum("bk,bkp->bp", mixed, directions[classes])).clamp(min=0)
    believed = classifier(pooled).softmax(-1).topk(10)
    conse = torch.einsum("bk,bkd->bd", believed.values, names[believed.indices])
    nearest = (conse @ names.T).argmax(-1)
    found = normalize(lite0.image_projection(pooled), dim=-1) @ names.T
    assert (found.argmax(-1) == nearest).float().mean() > 0.5


def test_projection_is_computed_once_per_store(lite0, store, monkeypatch):
    monkeypatch.setattr(name_projection, "_fit", lambda *_: pytest.fail("fitted again"))
    again = load_dual_encoder(EncoderConfig(), store=store)
    assert torch.equal(again.image_projection.weight, lite0.image_projection.weight)


@torch.no_grad()
def test_projection_gives_the_logits_back_where_names_can():
    """With orthogonal names there is nothing to trade: products with names are the centred logits, scaled."""
    names, classifier = torch.eye(12), nn.Linear(7, 12)
    projection = name_projection.solve(names, classifier)
    pooled = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    products, logits = projection(pooled) @ names.T, classifier(pooled)
    slopes = (products - products.mean(-1, keepdim=True)) / (logits - logits.mean(-1, keepdim=True))
    torch.testing.assert_close(slopes, slopes.mean().expand_as(slopes), rtol=1e-3, atol=0)


def test_changed_weights_are_refused():
    name, md5 = LITE0
    with pytest.raises(WeightsUnavailable, match=f"its MD5 is {md5}, expected 0000.*make setup"):
        package_file(name, "0000")
    with pytest.raises(WeightsUnavailable, match="no-such-weights is not installed"):
        package_file("no_such_weights/file.pth", md5)
