"""A BLIP checkpoint of two narrow layers, with a vocabulary of its own, as transformers saves one."""

from pathlib import Path

import torch

from trainables.models.torchvision_import import declare_missing_operators

WORDS = ["a", "an", "the", "black", "and", "white", "photo", "of", "chest", "lung", "film", "picture"]
WORDS += ["x", "ray", "with", "two", "on", "in"]


def save_narrow_blip(folder: Path) -> Path:
    declare_missing_operators()
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS]
    numbered = {token: i for i, token in enumerate(vocabulary)}
    BertTokenizer(vocab=numbered, bos_token="[DEC]").save_pretrained(folder)
    narrow = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"pad_token_id": 0, "bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3}
    config = BlipConfig(
        text_config={**narrow, **tokens, "encoder_hidden_size": 16, "vocab_size": len(vocabulary)},
        vision_config={**narrow, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(3)
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:  # so that different images get different words
                parameter.mul_(500.0 if "crossattention" in name else 25.0)
        bias = model.get_parameter("text_decoder.cls.predictions.bias")
        bias[:6], bias[3] = -1e3, -1.0  # of the special tokens, only the end is ever said
    model.save_pretrained(folder)
    return folder
