"""timm image encoders as image towers, loaded from safetensors and divided into top-level blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainables.errors import ConfigError
from trainables.models.catalogue.repositories import timm_repository
from trainables.models.files.checkpoints import checkpoint_folder, local_folder
from trainables.models.torchvision_import import declare_missing_operators

# Imports inside functions: only encoders of this library need it, and torchvision must be ready first.


class ImageTower(nn.Module):
    """Top-level blocks that map pixels [B, C, H, W] to `pooled` [B, P]; any block can be the first to run."""

    def __init__(self, blocks: list[nn.Module], pooled_dim: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.pooled_dim = pooled_dim
        self.block_names = tuple(f"blocks.{i}" for i in range(len(blocks)))

    def run(self, activations: Tensor, first: int, last: int) -> Tensor:
        """Runs blocks `first` to `last` - 1."""
        if activations.dim() == 4:  # convolutions on a CPU are 2-3 times as fast with channels last
            activations = activations.contiguous(memory_format=torch.channels_last)
        return self.blocks[first:last](activations)


def load_timm_tower(name: str, *, size: int, weights: bool) -> ImageTower:
    """Loads a timm model, with weights from the Hub or from a folder with a `config.json`."""
    declare_missing_operators()
    import timm
    from timm.models import load_checkpoint

    folder = local_folder(name)
    if folder is None and not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0]}*")[:5]
        raise ConfigError(f"encoder.name: timm has no model '{name}' (near: {', '.join(near) or 'none'})")
    if folder is None and weights:
        folder = checkpoint_folder(timm_repository(name))
    model_name = f"local-dir:{folder}" if folder else name
    model: Any = timm.create_model(model_name, pretrained=False)
    if model.pretrained_cfg.get("fixed_input_size") and size != model.pretrained_cfg["input_size"][-1]:
        model = timm.create_model(model_name, pretrained=False, img_size=size)
    if weights and folder is not None:
        load_checkpoint(model, str(_one_file(folder)))
    model.reset_classifier(0)
    return ImageTower(cut_into_blocks(model.eval()), model.num_features)


def cut_into_blocks(model: Any) -> list[nn.Module]:
    """Returns a timm model without classifier as blocks, which together give the pooled features.

    EfficientNets are divided into stages (the first with the stem) and the head. Vision transformers are
    divided into the embedding and the layers (the last with the pooling). Any other model is one block,
    which can be adapted, but whose activations are not cached.
    """
    from timm.models.efficientnet import EfficientNet
    from timm.models.vision_transformer import VisionTransformer

    if isinstance(model, EfficientNet):
        stages = list(cast(nn.Sequential, model.blocks))
        stem = NamedBlocks(conv_stem=model.conv_stem, bn1=model.bn1, stage=stages[0])
        return [
            stem,
            *stages[1:],
            NamedBlocks(conv_head=model.conv_head, bn2=model.bn2, pool=model.global_pool),
        ]
    if isinstance(model, VisionTransformer) and model.attn_pool is None:
        layers, pool = list(cast(nn.Sequential, model.blocks)), _VitPool(model)
        model.blocks = nn.Sequential()
        model.norm = model.fc_norm = nn.Identity()
        return [_VitEmbedding(model), *layers[:-1], NamedBlocks(layer=layers[-1], pool=pool)]
    return [model]


class NamedBlocks(nn.Sequential):
    """A sequence of blocks with names, which adapters use."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class _VitEmbedding(nn.Module):
    """The part of a vision transformer before its layers."""

    def __init__(self, emptied: Any) -> None:
        super().__init__()
        self.vit: Any = emptied

    def forward(self, pixels: Tensor) -> Tensor:
        return self.vit.forward_features(pixels)


class _VitPool(nn.Module):
    """The part of a vision transformer after its layers."""

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.norm: nn.Module = vit.norm
        self.fc_norm: nn.Module = vit.fc_norm
        self.pool_type: str = vit.global_pool
        self.num_prefix_tokens: int = vit.num_prefix_tokens

    def forward(self, tokens: Tensor) -> Tensor:
        from timm.models.vision_transformer import global_pool_nlc

        pooled = global_pool_nlc(self.norm(tokens), self.pool_type, num_prefix_tokens=self.num_prefix_tokens)
        return self.fc_norm(pooled)


def _one_file(folder: Path) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    return next((file for file in files if file.name == "model.safetensors"), files[0])
