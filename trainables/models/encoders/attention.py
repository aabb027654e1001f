"""Attention that calls its projections as linear layers, so that adapters on them have an effect.

`nn.MultiheadAttention` keeps the weights of q, k and v in one matrix, and reads the weights of its output
layer without calling the layer. PEFT therefore cannot separate q from v, ignores dropout and cannot adapt the
output layer alone (huggingface/peft#761). open_clip's attention pooling has the same problem with four linear
layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class SplitAttention(nn.Module):
    """The same function as `nn.MultiheadAttention`, batch first, without attention weights in the output."""

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        """Takes the weights of a module that projects q, k and v from the same width, with biases."""
        super().__init__()
        weight, bias = fused.in_proj_weight, fused.in_proj_bias
        assert fused.batch_first
        assert weight is not None
        assert bias is not None
        assert fused.bias_k is None
        assert not fused.add_zero_attn
        assert fused.dropout == 0
        self.num_heads = fused.num_heads
        parts = zip(PROJECTIONS, weight.detach().chunk(3), bias.detach().chunk(3), strict=True)
        for name, rows, offsets in parts:
            self.add_module(name, _linear(rows, offsets))
        self.out_proj = _linear(fused.out_proj.weight.detach(), fused.out_proj.bias.detach())

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None = None, **ignored: Any
    ) -> tuple[Tensor, None]:
        """Attends from queries [B, L, width] to keys and values [B, S, width].

        `attn_mask` [L, S] is added to the scores; a boolean mask is True where attention is forbidden. The
        second output is None, where `nn.MultiheadAttention` returns its weights.
        """
        del ignored  # need_weights: no weights are returned
        states = (query, key, value)
        q, k, v = (
            _to_heads(self.get_submodule(name)(state), self.num_heads)
            for name, state in zip(PROJECTIONS, states, strict=True)
        )
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = ~attn_mask  # PyTorch's function uses True for the opposite
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


class AttentionPool(nn.Module):
    """CLIP's attention pooling of a feature map, with the mean of the map as query (CLIP §2.4).

    The output layer is not included, because it is the projection into the joint space.
    """

    def __init__(self, pool: Any) -> None:
        """Takes the weights of open_clip's `AttentionPool2d`."""
        super().__init__()
        self.positional_embedding: nn.Parameter = pool.positional_embedding
        self.num_heads: int = pool.num_heads
        for name in PROJECTIONS:
            self.add_module(name, pool.get_submodule(name))

    def forward(self, features: Tensor) -> Tensor:
        """Returns pooled features [B, C] of a map [B, C, H, W]."""
        places = features.flatten(2).transpose(1, 2)
        tokens = torch.cat([places.mean(1, keepdim=True), places], dim=1)
        tokens = tokens + self.positional_embedding.to(tokens.dtype)
        inputs = (tokens[:, :1], tokens, tokens)
        q, k, v = (
            _to_heads(self.get_submodule(name)(state), self.num_heads)
            for name, state in zip(PROJECTIONS, inputs, strict=True)
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1)


def split_attention(module: nn.Module) -> None:
    """Replaces every `nn.MultiheadAttention` in a module with a `SplitAttention`."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.MultiheadAttention):
                setattr(parent, name, SplitAttention(child))


def _to_heads(states: Tensor, num_heads: int) -> Tensor:
    """Returns states [B, L, width] as [B, heads, L, width / heads]."""
    return states.unflatten(2, (num_heads, -1)).transpose(1, 2)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return linear
