"""Narrow checkpoints of every family, with random weights: the names of the real thing in a second."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainables.config import EncoderConfig
from trainables.models.encoders.dual_encoder import DualEncoder
from trainables.models.encoders.load import load_dual_encoder
from trainables.models.torchvision_import import declare_missing_operators

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-.,'"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP checkpoint as on the Hub: 32 px, patch 16, two layers, letters as tokens."""
    declare_missing_operators()
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("narrow-clip")
    vocabulary = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    last = len(vocabulary) - 1
    layers = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config={**layers, "image_size": 32, "patch_size": 16, "projection_dim": 16},
        text_config={
            **layers,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": 48,
            "projection_dim": 16,
            "bos_token_id": last - 1,
            "eos_token_id": last,
            "pad_token_id": last,
        },
        projection_dim=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(config)
        for parameter in model.parameters():  # CLIP's own start is so small that everything looks alike
            if parameter.dim() > 1:
                parameter.data.normal_(std=0.2)
        model.save_pretrained(folder)
    CLIPTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[]).save_pretrained(folder)
    pixels = {
        "crop_size": {"height": 32, "width": 32},
        "image_mean": [0.4] * 3,
        "image_std": [0.2] * 3,
        "resample": 2,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return folder


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT checkpoint with its tokenizer: two layers, letters as word pieces."""
    declare_missing_operators()
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("narrow-bert")
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *LETTERS,
        *(f"##{letter}" for letter in LETTERS),
    ]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(
            BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=48,
                max_position_embeddings=64,
            )
        ).save_pretrained(folder)
    BertTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> Path:
    """A SigLIP checkpoint as on the Hub: 32 px, patch 16, two layers; letters as tokens."""
    declare_missing_operators()
    import shutil

    from transformers import AutoTokenizer, SiglipConfig, SiglipModel

    folder = tmp_path_factory.mktemp("narrow-siglip")
    shutil.copytree(bert_folder, folder, dirs_exist_ok=True)
    layers = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = len(AutoTokenizer.from_pretrained(bert_folder))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SiglipModel(
            SiglipConfig(
                vision_config={**layers, "image_size": 32, "patch_size": 16},
                text_config={
                    **layers, "vocab_size": words, "max_position_embeddings": 40, "projection_size": 24,
                },
            )
        )  # fmt: skip
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(std=0.2)
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder)
    pixels = {
        "size": {"height": 32, "width": 32},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return folder


@pytest.fixture(scope="session", params=["test_vit", "test_efficientnet", "test_resnet"])
def timm_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """timm's own smallest models: one cut by layers, one by stages, one not at all."""
    declare_missing_operators()
    import timm
    from timm.models import save_for_hf

    folder = tmp_path_factory.mktemp(request.param)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_for_hf(timm.create_model(request.param, pretrained=False), folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def open_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open_clip model with fused attention: 32 px, patch 16, two layers."""
    declare_missing_operators()
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("narrow-open-clip")
    architecture = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 24, "layers": 2, "head_width": 12},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**architecture)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    pixels = {"mean": [0.4] * 3, "std": [0.2] * 3, "interpolation": "bilinear"}
    config = {"model_cfg": architecture, "preprocess_cfg": pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def clip(clip_folder: Path) -> DualEncoder:
    return load_dual_encoder(EncoderConfig(name=str(clip_folder)))


@pytest.fixture
def lite0(store: Path) -> DualEncoder:
    return load_dual_encoder(EncoderConfig(image_size=64), store=store)


@pytest.fixture
def texts() -> list[str]:
    return ["clear lungs", "patchy opacities in both lower zones, of an uncertain age"]


@pytest.fixture
def images_for() -> Callable[[DualEncoder], Tensor]:
    """Random grey images of the size that an encoder asks for."""

    def draw(encoder: DualEncoder, count: int = 2) -> Tensor:
        size, random = encoder.preprocessing.size, torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (count, size, size), dtype=torch.uint8, generator=random)

    return draw
