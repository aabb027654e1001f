"""CheXzero and BioCLIP from converted files with OpenAI's names, on narrow copies of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from openai_checkpoints import reference, write
from torch import Tensor
from torch.nn.functional import normalize

from trainables.config import EncoderConfig, from_flat
from trainables.errors import ConfigError, WeightsUnavailable
from trainables.models.adapters.check_targets import check_targets
from trainables.models.adapters.liveness import prove_alive
from trainables.models.adapters.lora import attach
from trainables.models.catalogue.registry import FAMILIES, preprocessing_of
from trainables.models.encoders.load import load_dual_encoder
from trainables.models.encoders.structure import structure_of

pytestmark = pytest.mark.kernels

BIOCLIP = "imageomics/bioclip"


def difference(name: str, model: Any, images: Tensor, texts: list[str]) -> float:
    with torch.no_grad():
        encoder = load_dual_encoder(EncoderConfig(name=name, image_size=32))
        image = encoder.encode_image(images).joint - normalize(
            model.encode_image(encoder.pixels(images)), dim=-1
        )
        tokens = encoder.tokenize(texts)
        text = encoder.encode_text(tokens) - normalize(model.encode_text(tokens.input_ids), dim=-1)
    return max(image.abs().max().item(), text.abs().max().item())


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (2, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_embeddings_equal_those_of_open_clip_with_its_activation(
    home: Path, images: Tensor, texts: list[str]
):
    model = reference(quick_gelu=True)
    write("chexzero", model)
    assert difference("chexzero", model, images, texts) < 1e-5
    for quick_gelu in (True, False):
        write(BIOCLIP, model, quick_gelu=quick_gelu)
        same = difference(BIOCLIP, model, images, texts) < 1e-5
        assert same is quick_gelu  # its configuration says which; the other one is a silent error


def test_prompts_become_the_tokens_of_clip(home: Path):
    write("chexzero", reference(quick_gelu=True))
    encoder = load_dual_encoder(EncoderConfig(name="chexzero", image_size=32))
    (ids,) = encoder.tokenize(["Clear lungs, no pneumothorax."]).input_ids.tolist()
    assert ids[:11] == [49406, 3143, 27366, 267, 871, 28714, 617, 4130, 9203, 269, 49407]
    assert len(ids) == 77


def test_a_missing_tensor_and_an_absent_file_are_named(home: Path):
    with pytest.raises(
        WeightsUnavailable, match=r"configuration not on this machine; get open_clip_py.*convert"
    ):
        load_dual_encoder(EncoderConfig(name=BIOCLIP))
    model = reference(quick_gelu=True)
    del model.transformer.resblocks[1].ln_2.bias
    write("chexzero", model)
    with pytest.raises(
        ConfigError, match=r"chexzero: .* 1 missing \(first: transformer\.resblocks\.1\.ln_2\.bias"
    ):
        load_dual_encoder(EncoderConfig(name="chexzero", image_size=32))


def test_every_preset_is_alive(home: Path, images: Tensor, texts: list[str]):
    write("chexzero", reference(quick_gelu=True))
    for tower in ("image", "text"):
        for preset in FAMILIES["openai_file"].tower(tower).presets:
            config = from_flat(
                {
                    "encoder.name": "chexzero", "encoder.image_size": 32, "lora.towers": tower,
                    "lora.target_modules": preset, "lora.num_blocks": None, "lora.rank": 2,
                }
            )  # fmt: skip
            check_targets(config)
            encoder = load_dual_encoder(config.encoder)
            prove_alive(encoder, attach(encoder, config), images, encoder.tokenize(texts))


@pytest.mark.slow
def test_without_its_file_the_published_shape_is_planned_with(home: Path):
    structure = structure_of(EncoderConfig(name="chexzero"))
    assert structure is not None
    assert structure.num_parameters == 151_277_313
    assert preprocessing_of(EncoderConfig(name="chexzero")).size == 224
