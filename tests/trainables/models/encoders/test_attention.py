"""Split attention computes what the fused module computes, and every layer of it is called."""

from __future__ import annotations

import pytest
import torch
from comparisons import EXACT
from torch import nn

from trainables.models.encoders.attention import AttentionPool, SplitAttention, split_attention
from trainables.models.torchvision_import import declare_missing_operators

pytestmark = pytest.mark.kernels

WIDTH, LENGTH = 32, 7


@pytest.fixture
def fused() -> nn.MultiheadAttention:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True, dtype=torch.float64).eval()
        for parameter in attention.parameters():
            nn.init.normal_(parameter, std=0.3)
    return attention


def states(count: int = 1) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.randn(3, LENGTH, WIDTH, generator=random, dtype=torch.float64) for _ in range(count)]


def causal(kind: str) -> torch.Tensor | None:
    ahead = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    return {
        "none": None,
        "bool": ahead,
        "additive": torch.zeros(LENGTH, LENGTH, dtype=torch.float64).masked_fill(ahead, -torch.inf),
    }[kind]


@pytest.mark.parametrize("mask", ["none", "bool", "additive"])
def test_outputs_and_gradients_are_those_of_the_fused_module(fused, mask):
    split = SplitAttention(fused)
    inputs = [state.requires_grad_() for state in states(3)]
    expected, _ = fused(*inputs, need_weights=False, attn_mask=causal(mask))
    found, weights = split(*inputs, need_weights=False, attn_mask=causal(mask))
    assert weights is None
    torch.testing.assert_close(found, expected, **EXACT)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients = [
        torch.autograd.grad((out * direction).sum(), inputs, retain_graph=True) for out in (found, expected)
    ]
    torch.testing.assert_close(*gradients, **EXACT)
    ours = torch.autograd.grad((found * direction).sum(), split.k_proj.weight)[0]
    theirs = torch.autograd.grad((expected * direction).sum(), fused.in_proj_weight)[0]
    torch.testing.assert_close(ours, theirs[WIDTH : 2 * WIDTH], **EXACT)


def test_splitting_keeps_every_parameter_and_shares_none(fused):
    holder = nn.Sequential(nn.Sequential(fused))
    split_attention(holder)
    split = holder[0][0]
    assert isinstance(split, SplitAttention)
    names = {name for name, _ in split.named_parameters()}
    assert names == {f"{p}_proj.{kind}" for p in ("q", "k", "v", "out") for kind in ("weight", "bias")}
    assert sum(p.numel() for p in split.parameters()) == sum(p.numel() for p in fused.parameters())
    with torch.no_grad():
        fused.in_proj_weight.zero_()
    assert split.q_proj.weight.abs().min() > 0


@pytest.mark.parametrize("name", ["q_proj", "k_proj", "v_proj", "out_proj"])
@torch.no_grad()
def test_every_layer_is_called(fused, name):
    split = SplitAttention(fused)
    (state,) = states()
    before, _ = split(state, state, state)
    split.get_submodule(name).register_forward_hook(lambda module, inputs, output: output * 1.5)
    assert not torch.allclose(split(state, state, state)[0], before, atol=1e-3)


@torch.no_grad()
def test_pooling_and_projection_are_open_clips_attention_pooling():
    declare_missing_operators()
    from open_clip.modified_resnet import AttentionPool2d

    with torch.random.fork_rng():
        torch.manual_seed(0)
        pool = AttentionPool2d(3, WIDTH, 4, 16).eval().double()
        features = torch.randn(2, WIDTH, 3, 3, dtype=torch.float64)
    split = AttentionPool(pool)
    torch.testing.assert_close(pool.c_proj(split(features)), pool(features), **EXACT)
