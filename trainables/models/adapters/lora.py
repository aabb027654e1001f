"""Attaches low-rank adapters to a dual encoder with PEFT (LoRA, Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from trainables.config import LoraConfig, TrialConfig
from trainables.models.adapters.adaptation import Adaptation
from trainables.models.adapters.precision import store_frozen_in_bfloat16
from trainables.models.adapters.targets import resolve_targets
from trainables.models.encoder_spec import TowerName
from trainables.models.encoders.dropout import AdapterInput, CounterDropout
from trainables.models.encoders.dual_encoder import DualEncoder
from trainables.models.torchvision_import import import_peft

# Imports inside functions: PEFT loads once torchvision can be imported.

ADAPTER = "default"  # PEFT's name of the only adapter of an encoder


def attach(encoder: DualEncoder, config: TrialConfig) -> Adaptation:
    """Prepares an encoder in place for `adapt.method`, and freezes all other weights.

    The matrices A of the adapters depend only on `config.seed`. The matrices B are zero, so the outputs of
    the encoder do not change yet.
    """
    method = config.adapt.method
    encoder.requires_grad_(False)
    targets = resolve_targets(encoder, config.lora) if "lora" in method else {}
    if targets:
        _inject(encoder, config.lora, targets, seed=config.seed)
    projections = encoder.projections() if "projection" in method else {}
    for name in projections.values():
        encoder.get_submodule(name).requires_grad_(True)
    whole = _unfreeze(encoder, config) if method == "full" else ()
    if method != "none":
        if config.loss.logit_scale is not None:
            encoder.log_logit_scale.data.fill_(math.log(config.loss.logit_scale))
        encoder.log_logit_scale.requires_grad_(config.loss.learn_logit_scale)
    if config.encoder.precision == "bfloat16":
        store_frozen_in_bfloat16(encoder)
    return Adaptation(
        method=method,
        parameters={name: p for name, p in encoder.named_parameters() if p.requires_grad},
        targets=targets,
        image_cut=0 if "image" in whole else _lowest_adapted_block(encoder, targets.get("image", [])),
        adapts_image="image" in targets or "image" in projections or "image" in whole,
        adapts_text="text" in targets or "text" in projections or "text" in whole,
    )


def _unfreeze(encoder: DualEncoder, config: TrialConfig) -> tuple[TowerName, ...]:
    """Makes all weights of the towers in `adapt.towers` trainable, and returns the names of the towers."""
    towers: tuple[TowerName, ...] = (
        ("image", "text") if config.adapt.towers == "both" else (config.adapt.towers,)
    )
    beginnings = tuple(beginning for tower in towers for beginning in encoder.towers()[tower])
    for name, parameter in encoder.named_parameters():
        if name.startswith(beginnings) and parameter.is_floating_point():
            parameter.requires_grad_(True)
    return towers


def merge(encoder: DualEncoder) -> None:
    """Adds every adapter to the weights that it adapts; the outputs stay equal up to rounding."""
    import_peft()
    from peft.tuners.lora import LoraLayer

    for module in encoder.modules():
        if isinstance(module, LoraLayer):
            module.merge(safe_merge=True)  # raises an error if a weight is not finite


def _inject(
    encoder: DualEncoder, lora: LoraConfig, targets: dict[TowerName, list[str]], *, seed: int
) -> None:
    prefix = next(
        f"{name}." if name else "" for name, m in encoder.named_modules() if m is encoder.adapter_root
    )
    names = [name for tower in targets.values() for name in tower]
    peft = import_peft()
    assert not hasattr(encoder.adapter_root, "peft_config"), "an encoder is adapted once"
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.scaling * lora.rank,
        lora_dropout=lora.dropout,
        use_rslora=lora.use_rslora,
        target_modules=[name.removeprefix(prefix) for name in names],
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, encoder.adapter_root, ADAPTER)
    for tower, modules in targets.items():
        for name in modules:
            adapted: Any = encoder.get_submodule(name)
            dropout = CounterDropout(lora.dropout, name=name, tower=tower).train(encoder.training)
            adapted.lora_A[ADAPTER] = AdapterInput(adapted.lora_A[ADAPTER], dropout if lora.dropout else None)
            adapted.lora_dropout[ADAPTER] = nn.Identity()
            adapted.cast_input_dtype_enabled = False  # `AdapterInput` casts instead, without saving a copy


def _lowest_adapted_block(encoder: DualEncoder, targets: list[str]) -> int:
    """Returns the number of the lowest image block with an adapter, or the number of blocks without one."""
    blocks = encoder.blocks("image")
    adapted = (i for i, block in enumerate(blocks) if any(name.startswith(f"{block}.") for name in targets))
    return next(adapted, len(blocks))
