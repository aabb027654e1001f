"""Adapter dropout: the same masks however the batch is cut, and fair coins."""

from __future__ import annotations

import pytest
import torch
from comparisons import ROUNDED

from trainables.config import from_flat
from trainables.models.adapters.lora import attach
from trainables.models.encoders.dropout import AdapterInput, CounterDropout, keep_mask, mix, set_dropout_rows
from trainables.models.encoders.saved_bytes import saved_bytes

pytestmark = pytest.mark.kernels


def dropped(
    rows: list[int], *, name: str = "layer", seed: int = 0, step: int = 0, shape=(50, 12)
) -> torch.Tensor:
    """Says which elements a module drops in these rows."""
    module = CounterDropout(0.3, name=name, tower="image")
    module.at(seed=seed, step=step, rows=rows)
    return module(torch.ones(len(rows), *shape)) == 0


def test_a_row_has_the_same_mask_in_every_micro_batch():
    whole = dropped(list(range(10)))
    cut = torch.cat([dropped([0, 1, 2]), dropped([3]), dropped(list(range(4, 10)))])
    assert torch.equal(whole, cut)
    assert torch.equal(dropped([7, 2]), whole[[7, 2]])


@pytest.mark.parametrize("other", [{"name": "another"}, {"seed": 1}, {"step": 1}, {"rows": [8, 9]}])
def test_every_part_of_the_key_changes_the_mask(other):
    first, second = dropped([0, 1]), dropped(**{"rows": [0, 1], **other})
    agreement = (first == second).float().mean().item()
    assert agreement == pytest.approx(
        0.3**2 + 0.7**2, abs=0.06
    )  # that of independent masks; 4 standard errors


def test_padding_a_text_does_not_change_its_mask():
    short, long = dropped([3], shape=(5, 12)), dropped([3], shape=(9, 12))
    assert torch.equal(short[0], long[0, :5])


@pytest.mark.parametrize("probability", [0.05, 0.25, 0.5, 0.9])
def test_masks_are_unbiased_and_keep_the_expectation(probability):
    num_rows, num_elements = 200, 5_001  # not a multiple of the four uniforms that a hash gives
    keep = keep_mask(12345, torch.arange(num_rows), num_elements, probability=probability).float()
    deviation = (probability * (1 - probability)) ** 0.5
    assert keep.shape == (num_rows, num_elements)
    assert keep.mean().item() == pytest.approx(1 - probability, abs=4 * deviation / keep.numel() ** 0.5)
    for axis in (0, 1):  # neither rows nor elements have a will of their own
        means = keep.mean(axis)
        assert means.std().item() == pytest.approx(deviation / keep.shape[axis] ** 0.5, rel=0.25)
    module = CounterDropout(probability, name="layer", tower="image")
    module.at(seed=0, step=0, rows=range(num_rows))
    assert module(torch.ones(num_rows, num_elements)).mean().item() == pytest.approx(
        1, abs=0.02 / (1 - probability)
    )


def test_the_hash_is_splitmix64():
    """Reference: the first outputs of the generator seeded with 0 and 1234567 (Vigna's splitmix64.c)."""
    assert mix(0) == 0xE220A8397B1DCDAF
    assert mix(1234567) == 6457827717110365317
    key, row = 99, 5
    stream = mix(row ^ key)
    words = [mix((stream + count * 0x9E3779B97F4A7C15) % 2**64) for count in (1, 2)]
    uniforms = [(word >> shift) & 0xFFFF for word in words for shift in (0, 16, 32, 48)]
    signed = [value - 2**16 if value >= 2**15 else value for value in uniforms]
    expected = [value >= round(0.5 * 2**16) - 2**15 for value in signed]
    assert keep_mask(key, torch.tensor([row]), 8, probability=0.5)[0].tolist() == expected


def test_rows_that_nobody_named_are_refused():
    module = CounterDropout(0.1, name="layer", tower="image")
    with pytest.raises(RuntimeError, match="2 rows in the input, but set_dropout_rows set 0"):
        module(torch.ones(2, 3))
    module.eval()
    assert torch.equal(module(torch.ones(2, 3)), torch.ones(2, 3))


@pytest.mark.parametrize("tower", ["image", "text"])
def test_an_adapted_tower_repeats_its_embeddings_in_any_cut_and_only_in_training(clip, images_for, tower):
    adaptation = attach(
        clip,
        from_flat(
            {"lora.dropout": 0.5, "lora.target_modules": "all", "lora.towers": tower, "lora.num_blocks": 2}
        ),
    )
    for name, parameter in adaptation.parameters.items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    images = images_for(clip, 5)
    texts = ["clear lungs", "a", "opacity in the right lower zone", "no effusion", "two words"]

    def embed(rows: range, step: int = 3) -> torch.Tensor:
        set_dropout_rows(clip, seed=0, step=step, image_rows=rows, text_rows=rows)
        if tower == "image":
            return clip.encode_image(images[rows.start : rows.stop]).joint
        return clip.encode_text(clip.tokenize(texts[rows.start : rows.stop]))

    with torch.no_grad():
        frozen = embed(range(5))
        clip.train()
        whole = embed(range(5))
        torch.testing.assert_close(torch.cat([embed(range(2)), embed(range(2, 5))]), whole, **ROUNDED)
        assert not torch.allclose(embed(range(5), step=4), whole, atol=1e-3)
        assert not torch.allclose(frozen, whole, atol=1e-3)
        clip.eval()
        assert torch.equal(embed(range(5), step=9), frozen)


@pytest.mark.parametrize("layer", [torch.nn.Linear(12, 3, bias=False), torch.nn.Conv2d(12, 3, 1, bias=False)])
@pytest.mark.parametrize("needs_input_gradient", [True, False])
def test_the_gradient_is_that_of_dropout_before_the_layer_and_only_the_input_is_saved(
    layer: torch.nn.Module, needs_input_gradient: bool
) -> None:
    is_linear = isinstance(layer, torch.nn.Linear)
    inputs = torch.randn(4, 5, 12) if is_linear else torch.randn(4, 12, 5, 2)
    inputs.requires_grad_(needs_input_gradient)
    dropout = CounterDropout(0.4, name="layer", tower="image")
    dropout.at(seed=0, step=0, rows=[3, 1, 4, 2])
    lean = AdapterInput(layer, dropout)
    direction = torch.randn(layer(inputs).shape)
    wanted = [layer.weight, inputs] if needs_input_gradient else [layer.weight]
    expected = torch.autograd.grad((layer(dropout(inputs)) * direction).sum(), wanted)

    with saved_bytes([layer.weight]) as saved:
        outputs = lean(inputs)
    torch.testing.assert_close(outputs, layer(dropout(inputs)))
    assert saved == [inputs.untyped_storage().nbytes()]
    dropout.at(seed=0, step=0, rows=[9, 9, 9, 9])  # another micro-batch comes before this one's backward pass
    actual = torch.autograd.grad((outputs * direction).sum(), wanted)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_an_input_in_bfloat16_is_cast_on_the_way_and_not_saved_twice() -> None:
    layer = torch.nn.Linear(12, 3, bias=False)
    inputs = torch.randn(4, 12).bfloat16().requires_grad_()
    with saved_bytes([layer.weight]) as saved:
        outputs = AdapterInput(layer, None)(inputs)
    assert outputs.dtype == torch.float32
    assert saved == [4 * 12 * 2]
    outputs.sum().backward()
    assert inputs.grad is not None
    torch.testing.assert_close(inputs.grad.float(), layer.weight.sum(0).expand(4, -1), rtol=1e-2, atol=1e-2)
