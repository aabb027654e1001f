"""Image towers of open_clip, divided into blocks: vision transformers and CLIP's ResNets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainables.models.encoders.attention import AttentionPool, split_attention
from trainables.models.encoders.timm_towers import ImageTower, NamedBlocks


class VisionTransformerTower(nn.Module):
    """open_clip's `VisionTransformer`. Block 0 is the patch embedding; the others are attention blocks."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        split_attention(visual.transformer)
        self.visual: Any = visual
        count = len(visual.transformer.resblocks)
        self.block_names = (
            "visual.conv1",
            *(f"visual.transformer.resblocks.{i}" for i in range(count)),
        )

    def run(self, activations: Tensor, first: int, last: int) -> Tensor:
        """Runs blocks `first` to `last` - 1, from pixels [B, C, H, W] to the pooled class token [B, P]."""
        blocks = self.visual.transformer.resblocks
        if first == 0 < last:
            activations = self.visual._embeds(activations)
        for block in blocks[max(first - 1, 0) : max(last - 1, 0)]:
            activations = block(activations)
        if first < last == len(blocks) + 1:
            activations, _ = self.visual._pool(activations)
        return activations


def resnet_tower(visual: Any) -> ImageTower:
    """Returns open_clip's `ModifiedResNet` as blocks: stem, bottlenecks and attention pooling.

    BatchNorm keeps the statistics of pretraining, because a `DualEncoder` never leaves its eval mode.
    """
    stem = {
        f"{kind}{i}": visual.get_submodule(f"{kind}{i}") for i in (1, 2, 3) for kind in ("conv", "bn", "act")
    }
    stages = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
    bottlenecks = [bottleneck for stage in stages for bottleneck in stage]
    pool = AttentionPool(visual.attnpool)
    tower = ImageTower(
        [NamedBlocks(**stem, avgpool=visual.avgpool), *bottlenecks, pool], pool.positional_embedding.shape[1]
    )
    for parameter in tower.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return tower
