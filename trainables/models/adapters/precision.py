"""Stores frozen weights in bfloat16: half the memory, and faster on hardware with bfloat16.

Trainable weights, the optimiser and the loss stay in float32. Autocast is not used, because it would cast the
frozen weights again in every micro-batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainables.models.encoders.dropout import AdapterInput
from trainables.models.encoders.dual_encoder import DualEncoder


def store_frozen_in_bfloat16(encoder: DualEncoder) -> None:
    """Converts the frozen weights of an encoder in place. Call this after adapters are attached."""
    for module in encoder.modules():
        if module is encoder:
            continue
        own = list(module.parameters(recurse=False))
        if any(parameter.requires_grad for parameter in own) and not isinstance(module, AdapterInput):
            module.register_forward_pre_hook(_in_float32)
        for parameter in own:
            is_frozen = not parameter.requires_grad and parameter is not encoder.log_logit_scale
            if is_frozen and parameter.is_floating_point():
                parameter.data = parameter.data.bfloat16()
        for key, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point() and not any(parameter.requires_grad for parameter in own):
                setattr(module, key, buffer.bfloat16())
    encoder.dtype = torch.bfloat16


def _in_float32(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Casts the input of a trainable layer, such as the projection, to float32."""
    del module
    return tuple(value.float() if isinstance(value, Tensor) else value for value in inputs)
