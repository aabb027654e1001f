"""Encoders with random weights and LoRA in both towers, for what depends on the architecture alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from trainables.config import TrialConfig, from_flat
from trainables.models.adapters.lora import attach
from trainables.models.catalogue.registry import FAMILIES
from trainables.models.encoders.dual import JoinedEncoder, SentenceEncoder
from trainables.models.encoders.dual_encoder import DualEncoder
from trainables.models.encoders.hf_clip import HFClip
from trainables.models.encoders.lite0 import POOLED_DIM, lite0_tower, load_lite0
from trainables.models.torchvision_import import declare_missing_operators

Model = Literal["vit-b-32", "vit-b-32-cut", "vit-l-14-336", "tiny", "lite0", "lite0-small"]

TINY_LAYERS = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 3}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit-b-32": {},  # the defaults of CLIPConfig are those of ViT-B/32
    "vit-b-32-cut": {"vision_config": {"num_hidden_layers": 3}, "text_config": {"num_hidden_layers": 3}},
    "vit-l-14-336": {
        "vision_config": {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "patch_size": 14,
            "num_attention_heads": 16, "image_size": 336, "projection_dim": 768,
        },
        "text_config": {
            "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768,
        },
        "projection_dim": 768,
    },
    "tiny": {
        "vision_config": {**TINY_LAYERS, "image_size": 64, "patch_size": 8, "projection_dim": 64},
        "text_config": {**TINY_LAYERS, "vocab_size": 1000, "bos_token_id": 998, "eos_token_id": 999}
        | {"pad_token_id": 999, "projection_dim": 64},
        "projection_dim": 64,
    },
}  # fmt: skip
MINILM: dict[str, Any] = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-.,'"


def build_encoder(
    model: Model, *, dropout: float, seed: int, device: torch.device | str = "cpu"
) -> tuple[DualEncoder, list[nn.Parameter]]:
    """Returns an encoder in training mode, and its adapters' weights: the same numbers on every device.

    B of the adapters is not zero, at which A gets no gradient.
    """
    declare_missing_operators()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = _random_lite0(model) if model.startswith("lite0") else _random_clip(model)
        encoder.name, encoder.fingerprint = model, "random"
        encoder.to(device)
        config = lora_config(dropout=dropout, seed=seed, family=encoder.family)
        parameters = attach(encoder, config).parameters
        for name, parameter in parameters.items():
            if "lora_B" in name:
                parameter.data.copy_(torch.randn(parameter.shape) * 0.02)
    encoder.train()
    return encoder, list(parameters.values())


def lora_config(*, dropout: float, seed: int, family: str = "clip") -> TrialConfig:
    """Returns the adapters of the study that the project starts from, as the product's own configuration."""
    return from_flat(
        {
            "adapt.method": "lora",
            "lora.rank": 4,
            "lora.use_rslora": True,
            "lora.dropout": dropout,
            "lora.target_modules": "q_proj,v_proj,fc1,fc2" if family == "clip" else "all",
            "lora.towers": "both",
            "lora.num_blocks": None,
            "loss.kind": "clip",
            "loss.learn_logit_scale": False,
            "seed": seed,
        }
    )


def text_vocabulary(encoder: DualEncoder) -> tuple[int, int]:
    """Returns how many tokens a caption may be drawn from, and the one that ends it."""
    if isinstance(encoder, HFClip):
        text = encoder.model.config.text_config
        return text.vocab_size - 2, text.eos_token_id
    sentence: Any = encoder.get_submodule("text")
    return sentence.model.config.vocab_size, 0


def write_checkpoint(model: Model, folder: Path) -> None:
    """Writes a random CLIP as the Hub's repositories hold it, with letters as tokens."""
    declare_missing_operators()
    from transformers import CLIPTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = _random_clip(model)
    encoder.model.save_pretrained(folder)
    text = encoder.model.config.text_config
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    vocabulary = {word: number for number, word in enumerate(words)}
    special = {"<|startoftext|>": text.bos_token_id, "<|endoftext|>": text.eos_token_id}
    CLIPTokenizer(vocab=vocabulary | special, merges=[]).save_pretrained(folder)
    pixels = encoder.preprocessing
    said = {"crop_size": pixels.size, "size": pixels.size, "resample": 3}
    said |= {"image_mean": pixels.mean, "image_std": pixels.std}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))


def _random_clip(model: str) -> HFClip:
    """Builds a CLIP whose weights are wider than its own start, at which all inputs look alike."""
    from transformers import CLIPConfig, CLIPModel

    clip: Any = CLIPModel(CLIPConfig(**CONFIGS[model]))
    for parameter in clip.parameters():
        if parameter.dim() == 2:
            parameter.data.normal_(std=parameter.shape[1] ** -0.5)
    encoder = HFClip(clip, tokenizer=None)
    encoder.family = "clip"
    size = clip.config.vision_config.image_size
    encoder.preprocessing = FAMILIES["clip"].preprocessing.model_copy(update={"size": size})
    return encoder


def _random_lite0(model: str) -> JoinedEncoder:
    """Builds EfficientNet-Lite0 beside a MiniLM. Batch norm sees noise once, so outputs stay finite."""
    from transformers import BertConfig, BertModel

    size = 64 if model == "lite0-small" else 224
    lite0 = load_lite0(None)
    norms = [module for module in lite0.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean of all batches seen
    lite0.train()
    with torch.no_grad():
        lite0(torch.randn(16, 3, size, size))
    text = SentenceEncoder(BertModel(BertConfig(**MINILM)), None, 128)
    encoder = JoinedEncoder(lite0_tower(lite0.eval()), text.eval(), nn.Linear(POOLED_DIM, text.width))
    encoder.family, encoder.name, encoder.fingerprint = "lite0", model, "random"
    encoder.preprocessing = FAMILIES["lite0"].preprocessing.model_copy(update={"size": size})
    return encoder
