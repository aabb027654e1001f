"""CLIP checkpoints with the real names of tensors, written as OpenAI and the Hub publish them, but narrow.

The weights are random and spread, so that everything that is computed shows in an embedding.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from trainables.models.torchvision_import import declare_missing_operators

SIZE = 64
VISION = {
    "vit": {"image_size": SIZE, "patch_size": 16, "width": 64, "layers": 2},
    "resnet": {"image_size": SIZE, "width": 8, "layers": [1, 2, 1, 1]},
}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
JOINT_DIM = 32
RENAMED = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
HALVES = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "logit_scale": "logit_scale",
}
NORMS = {
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "text_model.final_layer_norm": "ln_final",
}


def random_clip(kind: str) -> Any:
    """Returns open_clip's own model of a kind, in eval mode."""
    declare_missing_operators()
    import open_clip

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(JOINT_DIM, vision_cfg=VISION[kind], text_cfg=TEXT, quick_gelu=True).eval()
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.dim() > 1:
                tensor.normal_(std=tensor[0].numel() ** -0.5)
            elif tensor.dim() and tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) / 5)  # biases, norms, running means, bn3's zeros
    return model


def openai_tensors(model: Any) -> dict[str, Tensor]:
    """Returns the tensors of OpenAI's archives: the model's, and three numbers beside them."""
    numbers = {"input_resolution": SIZE, "context_length": 77, "vocab_size": 49408}
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
    return tensors | {name: torch.tensor(number) for name, number in numbers.items()}


def full_width_tensors(architecture: str) -> dict[str, Tensor]:
    """Returns random tensors in half precision, as OpenAI stores them, scaled to keep activations finite."""
    declare_missing_operators()
    import open_clip

    with torch.device("meta"):
        shapes = open_clip.CLIP(**open_clip.get_model_config(architecture)).state_dict()
    noise = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).half()
    tensors = {}
    for name, shape in shapes.items():
        count = shape.numel()
        values = noise.repeat(-(-count // len(noise)))[:count].view(shape.shape)
        if name.endswith(("running_var", "norm.weight")) or shape.dim() == 0:
            tensors[name] = torch.ones(shape.shape, dtype=shape.dtype if shape.dim() == 0 else torch.float16)
        elif shape.dim() > 1:
            tensors[name] = values * shape[0].numel() ** -0.5
        else:
            tensors[name] = (1 if name.endswith("weight") else 0) + values / 10
    return tensors


def write_transformers(tensors: dict[str, Tensor], folder: Path) -> None:
    """Writes the same vision transformer as a folder of Hugging Face transformers, with CLIP's tokenizer."""
    ours = {name: tensors[old] for name, old in HALVES.items()}
    for half, old in NORMS.items():
        ours |= {f"{half}.{part}": tensors[f"{old}.{part}"] for part in ("weight", "bias")}
    ours["visual_projection.weight"] = tensors["visual.proj"].T
    ours["text_projection.weight"] = tensors["text_projection"].T
    for half, old in (("vision_model", "visual.transformer"), ("text_model", "transformer")):
        for name, tensor in tensors.items():
            if name.startswith(f"{old}.resblocks."):
                layer, _, leaf = name.removeprefix(f"{old}.resblocks.").partition(".")
                place = f"{half}.encoder.layers.{layer}"
                ours |= {f"{place}.{new}": part for new, part in _of_layer(leaf, tensor).items()}
    save_file(
        {n: t.contiguous() for n, t in ours.items()}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    _write_descriptions(folder)


def _of_layer(leaf: str, tensor: Tensor) -> dict[str, Tensor]:
    if leaf.startswith("attn.in_proj_"):
        kind = leaf.removeprefix("attn.in_proj_")
        parts = zip("qkv", tensor.chunk(3), strict=True)
        return {f"self_attn.{letter}_proj.{kind}": part for letter, part in parts}
    module, _, kind = leaf.rpartition(".")
    return {f"{RENAMED[module]}.{kind}": tensor}


def _write_descriptions(folder: Path) -> None:
    from open_clip import SimpleTokenizer

    def layers(said: dict[str, Any]) -> dict[str, Any]:
        width = said["width"]
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": said["layers"],
            "num_attention_heads": width // 64,
            "projection_dim": JOINT_DIM,
        }

    vision = layers(VISION["vit"]) | {"image_size": SIZE, "patch_size": 16}
    config = {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": JOINT_DIM,
        "vision_config": vision,
        "text_config": layers(TEXT),
    }
    pixels = {
        "crop_size": SIZE,
        "size": SIZE,
        "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    bpe = SimpleTokenizer()
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {special.get(token, token): i for token, i in bpe.encoder.items()}
    merges = ["#version: 0.2", *(" ".join(pair) for pair in bpe.bpe_ranks)]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))
