"""torchvision's ResNet-50 as an image tower, used in MedCLIP, GLoRIA and BioViL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from trainables.models.encoders.timm_towers import ImageTower, NamedBlocks
from trainables.models.files.state_dicts import Shapes, numbered
from trainables.models.torchvision_import import declare_missing_operators

# Imports inside functions: only encoders of this library need it, and torchvision must be ready first.

DEPTHS, WIDTH, POOLED_DIM = (3, 4, 6, 3), 64, 2048
UNUSED = ("fc.",)  # ImageNet's classifier
STAGES = ("layer1", "layer2", "layer3", "layer4")


def resnet_tower(shapes: Shapes, *, first: nn.Module | None = None, last: nn.Module) -> ImageTower:
    """Builds a ResNet-50 with random weights, divided into its stem and its four stages.

    Args:
        shapes: shapes by torchvision's names, which give depth and width; {} = as published.
        first: module before the stem.
        last: module after the last stage, for the map [B, 2048, H, W].
    """
    declare_missing_operators()
    from torchvision.models.resnet import Bottleneck, ResNet

    depths = [numbered(shapes, f"{stage}.") or depth for stage, depth in zip(STAGES, DEPTHS, strict=True)]
    width = shapes.get("layer1.0.conv1.weight", (WIDTH,))[0]
    net: Any = ResNet(Bottleneck, depths, width_per_group=width)
    stem = {"conv1": net.conv1, "bn1": net.bn1, "relu": net.relu, "maxpool": net.maxpool}
    before = {} if first is None else {"first": first}
    return ImageTower(
        [
            NamedBlocks(**before, **stem),
            *(getattr(net, stage) for stage in STAGES[:-1]),
            _Last(net.layer4, last),
        ],
        POOLED_DIM,
    )


def resnet_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors with torchvision's names under the names in `resnet_tower`."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stage, _, rest = name.partition(".")
        place = f"blocks.{STAGES.index(stage) + 1}.{rest}" if stage in STAGES else f"blocks.0.{name}"
        renamed[name if name.startswith(UNUSED) else place] = tensor
    return renamed


class SpatialMean(nn.Module):
    """A layer that averages the positions of a map: [B, C, H, W] → [B, C]."""

    def forward(self, activations: Tensor) -> Tensor:
        """Returns the mean."""
        return activations.mean((2, 3))


class _Last(nn.Sequential):
    """The last stage, whose bottlenecks keep their numbers, followed by another module."""

    def __init__(self, stage: nn.Sequential, last: nn.Module) -> None:
        super().__init__(*stage)
        self.last = last
