"""Checks at the start of a trial that every adapter changes the output.

PEFT attaches adapters by name, but a forward pass may ignore an adapter: a fused kernel reads the weights of
a layer without calling the layer (`attention`). Such an adapter never trains, while other adapters lower the
loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainables.errors import ConfigError
from trainables.models.adapters.adaptation import Adaptation
from trainables.models.catalogue.towers import leaf_name
from trainables.models.encoder_spec import TowerName
from trainables.models.encoders.dual_encoder import DualEncoder, Tokens, in_evaluation_mode


def prove_alive(encoder: DualEncoder, adaptation: Adaptation, images: Tensor, tokens: Tokens) -> None:
    """Raises ConfigError with the names of adapters that do not change the output or get no gradient.

    Each kind of module (leaf name) of each tower is tested alone: with a random B, and all other B zero, the
    embeddings must change. Then, with all B zero as at the start of training, every B must get a gradient in
    one backward pass. Two images, uint8 [2, H, W], and any two texts are enough. Weights, gradients and mode
    are restored.
    """
    with in_evaluation_mode(encoder):
        with torch.no_grad():
            activations = encoder.encode_image_prefix(encoder.pixels(images), adaptation.image_cut)
        for tower, modules in adaptation.targets.items():

            def embed(tower: TowerName = tower) -> Tensor:
                if tower == "image":
                    return encoder.encode_image_suffix(activations, adaptation.image_cut).joint
                return encoder.encode_text(tokens)

            adapters = {name: _b_matrices(encoder.get_submodule(name)) for name in modules}
            with _all_zero(adapters):
                silent = _silent_kinds(adapters, embed)
                unreached = _unreached(adapters, embed)
            if silent or unreached:
                raise ConfigError(
                    f"lora.target_modules: adapters in the {tower} tower of {encoder.name} that the forward "
                    f"pass ignores: {', '.join(dict.fromkeys([*silent, *map(leaf_name, unreached)]))} (e.g. "
                    f"{(unreached or modules)[0]}); they would train nothing, so leave these names out"
                )


def _b_matrices(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for name, parameter in module.named_parameters() if "lora_B." in name]


@torch.no_grad()
def _silent_kinds(adapters: dict[str, list[nn.Parameter]], embed) -> list[str]:
    """Returns the leaf names whose adapters do not change the output. All B are zero before and after."""
    before = embed()
    silent = []
    for kind in dict.fromkeys(map(leaf_name, adapters)):
        matrices = [b for name, bs in adapters.items() if leaf_name(name) == kind for b in bs]
        for b in matrices:
            b.normal_(std=0.1, generator=torch.Generator(b.device).manual_seed(0))
        if torch.equal(embed(), before):
            silent.append(kind)
        for b in matrices:
            b.zero_()
    return silent


def _unreached(adapters: dict[str, list[nn.Parameter]], embed) -> list[str]:
    """Returns the modules whose B gets no gradient, or only zeros."""
    with torch.enable_grad():
        embeddings = embed()
        random = torch.Generator().manual_seed(0)
        direction = torch.randn(embeddings.shape, generator=random).to(embeddings)
        every = [b for matrices in adapters.values() for b in matrices]
        if not embeddings.requires_grad:
            return list(adapters)
        gradients = dict(
            zip(
                every,
                torch.autograd.grad((embeddings * direction).sum(), every, allow_unused=True),
                strict=True,
            )
        )
    return [
        name
        for name, matrices in adapters.items()
        if not matrices or any(gradients[b] is None or not gradients[b].any() for b in matrices)
    ]


@contextmanager
def _all_zero(adapters: dict[str, list[nn.Parameter]]) -> Iterator[None]:
    """Sets every B to zero inside the `with` block."""
    kept = [(b, b.detach().clone()) for matrices in adapters.values() for b in matrices]
    with torch.no_grad():
        for b, _ in kept:
            b.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            for b, value in kept:
                b.copy_(value)
