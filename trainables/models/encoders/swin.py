"""transformers' Swin as an image tower, from checkpoints with the tensor names before transformers 5.

Without renaming, 156 of its 219 tensors would silently stay random.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from trainables.errors import ConfigError
from trainables.models.encoders.timm_towers import ImageTower
from trainables.models.files.state_dicts import Shapes, numbered
from trainables.models.torchvision_import import declare_missing_operators

# Imports inside functions: only encoders of this library need it, and torchvision must be ready first.

UNUSED = ("relative_position_index",)  # computed again
RENAMED = {
    r"attention\.self\.query": "attention.q_proj",
    r"attention\.self\.key": "attention.k_proj",
    r"attention\.self\.value": "attention.v_proj",
    r"attention\.self\.relative_position_bias_table": (
        "attention.relative_position_bias.relative_position_bias_table"
    ),
    r"attention\.output\.dense": "attention.o_proj",
    r"intermediate\.dense": "mlp.fc1",
    r"(?<!attention\.)output\.dense": "mlp.fc2",
}
_TABLE = "encoder.layers.{}.blocks.0.attention.self.relative_position_bias_table"


def swin_tower(shapes: Shapes, *, size: int) -> ImageTower:
    """Builds a Swin with random weights, divided into patch embedding and layers.

    Args:
        shapes: shapes by the names before transformers 5, which give depth and width; {} = Swin-T.
        size: side of the images in pixels.
    """
    declare_missing_operators()
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(image_size=size)
    if shapes:
        stages = range(numbered(shapes, "encoder.layers."))
        tables = [shapes[_TABLE.format(stage)] for stage in stages]
        width, _, patch, _ = shapes["embeddings.patch_embeddings.projection.weight"]
        config = SwinConfig(
            image_size=size,
            patch_size=patch,
            embed_dim=width,
            depths=[numbered(shapes, f"encoder.layers.{stage}.blocks.") for stage in stages],
            num_heads=[heads for _, heads in tables],
            window_size=(round(tables[0][0] ** 0.5) + 1) // 2,
        )
    smallest = config.patch_size * config.window_size * 2 ** (len(config.depths) - 1)
    if size % smallest:
        raise ConfigError(
            f"encoder.image_size={size}: the windows of this Swin need a multiple of {smallest} pixels"
        )
    model: Any = SwinModel(config)
    layers: list[nn.Module] = []
    for stage in model.encoder.layers:
        layers += [
            *(_Layer(layer) for layer in stage.blocks[:-1]),
            _Layer(stage.blocks[-1], stage.downsample),
        ]
    return ImageTower(
        [_Embedding(model.embeddings), *layers[:-1], _Pooled(layers[-1], model.layernorm)], model.num_features
    )


def swin_names(tensors: Mapping[str, Tensor], tower: ImageTower) -> dict[str, Tensor]:
    """Returns tensors with names before transformers 5 under the names in `swin_tower`."""
    num_blocks = len(tower.blocks)
    depths = [
        numbered(tensors, f"encoder.layers.{i}.blocks.") for i in range(numbered(tensors, "encoder.layers."))
    ]
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = name
        for old, current in RENAMED.items():
            new = re.sub(old, current, new)
        new = re.sub(r"^embeddings\.", "blocks.0.embeddings.", new)
        new = re.sub(r"^layernorm\.", f"blocks.{num_blocks - 1}.norm.", new)
        if found := re.match(r"encoder\.layers\.(\d+)\.(?:blocks\.(\d+)\.|downsample\.)", new):
            stage = int(found[1])
            inside = depths[stage] - 1 if found[2] is None else int(found[2])
            number = 1 + sum(depths[:stage]) + inside
            kind = "downsample" if found[2] is None else "layer"
            outer = "inner." if number == num_blocks - 1 else ""
            new = f"blocks.{number}.{outer}{kind}.{new[found.end() :]}"
        renamed[new] = tensor
    return renamed


class _Embedding(nn.Module):
    """The patch embedding: pixels [B, 3, H, W] → patches [B, L, C]."""

    def __init__(self, embeddings: Any) -> None:
        super().__init__()
        self.embeddings = embeddings

    def forward(self, pixels: Tensor) -> Tensor:
        patches, _ = self.embeddings(pixels)
        return patches


class _Layer(nn.Module):
    """A layer of windowed attention, perhaps followed by a merging of patches."""

    def __init__(self, layer: Any, downsample: Any = None) -> None:
        super().__init__()
        self.layer = layer
        self.downsample = downsample

    def forward(self, patches: Tensor) -> Tensor:
        side = round(patches.shape[1] ** 0.5)
        patches, _ = self.layer(patches, (side, side))
        return patches if self.downsample is None else self.downsample(patches, (side, side))


class _Pooled(nn.Module):
    """The last layer, followed by the mean of the normalised patches."""

    def __init__(self, inner: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.norm = norm

    def forward(self, patches: Tensor) -> Tensor:
        return self.norm(self.inner(patches)).mean(1)
