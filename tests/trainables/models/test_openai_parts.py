"""CheXzero and BioCLIP from converted files with OpenAI's names, on narrow copies of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from published import write_parts
from torch import Tensor
from torch.nn.functional import normalize

from trainables.artifacts import atomic_directory
from trainables.config import EncoderConfig, from_flat
from trainables.errors import ConfigError, WeightsUnavailable
from trainables.models.load import load_dual_encoder
from trainables.models.lora import attach, check_targets, prove_alive
from trainables.models.registry import FAMILIES, preprocessing_of
from trainables.models.structure import structure_of
from trainables.models.torchvision_import import declare_missing_operators

BIOCLIP = "imageomics/bioclip"


def reference(*, quick_gelu: bool) -> Any:
    declare_missing_operators()
    import open_clip

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(
            embed_dim=16,
            vision_cfg={"image_size": 32, "patch_size": 16, "width": 64, "layers": 2, "head_width": 64},
            text_cfg={"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
            quick_gelu=quick_gelu,
        ).eval()
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embedding" not in name:
                parameter.data.mul_(3)
    return model


def write(name: str, model: Any, *, quick_gelu: bool | None = None) -> None:
    folder = write_parts(name, {"model": {n: t for n, t in model.state_dict().items() if n != "attn_mask"}})
    if quick_gelu is not None:
        with atomic_directory(folder / "configuration") as aside:
            said = {"model_cfg": {"quick_gelu": quick_gelu}}
            (aside / "open_clip_config.json").write_text(json.dumps(said))


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
