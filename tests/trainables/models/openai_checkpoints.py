"""Checkpoints with the names of tensors that OpenAI publishes, and open_clip as their reference."""

from __future__ import annotations

import json
from typing import Any

import torch
from published import write_parts

from trainables.artifacts import atomic_directory
from trainables.models.torchvision_import import declare_missing_operators


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
