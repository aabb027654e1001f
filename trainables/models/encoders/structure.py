"""The structure of an encoder without its weights: its adaptable modules and its memory.

A structure is built once on PyTorch's meta device, where tensors have a shape but no data. The imports take
seconds, so the structures of registered encoders are stored next to this file. `python -m
trainables.models.encoders.structure` writes them again, and tests compare them.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.config import Config, EncoderConfig
from trainables.errors import WeightsUnavailable
from trainables.models.catalogue.registry import ENCODERS, preprocessing_of
from trainables.models.encoder_spec import TowerName
from trainables.models.files.weights import is_here

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainables.models.encoders.dual_encoder import DualEncoder

# Imports inside functions: torch takes seconds to load, and checks do not need it.

KEPT = Path(__file__).with_name("structures.json")
ROWS = 2
GRID = 32
"""Pixels. Convolutions halve an image five times, and pad a remainder."""


class Adaptable(Config):
    """A module that can get an adapter; `matrices` are [rows, columns] of the adapted weights."""

    name: str
    matrices: tuple[tuple[int, int], ...]

    @property
    def largest_rank(self) -> int:
        """Returns the rank of the smallest weight matrix, which limits the rank of an adapter."""
        return min(min(matrix) for matrix in self.matrices)

    def num_parameters(self, rank: int) -> int:
        """Returns the number of scalars of an adapter with this rank."""
        return sum(rank * (rows + columns) for rows, columns in self.matrices)


class Structure(Config):
    """The shapes of an encoder. Bytes are per image in float32 and per number of frozen image blocks.

    `graph_bytes` are kept for the backward pass. `activation_bytes` is the size of the input of the trainable
    part. `widest_bytes` is the size of the largest output of a module in a block; the last entry is for the
    projection. `num_tokens` is the number of tokens of a vision transformer, including the class token, or 0.
    """

    image_size: int
    num_tokens: int = 0
    num_parameters: int
    tower_parameters: dict[TowerName, int]
    projection_parameters: dict[TowerName, int]
    blocks: dict[TowerName, tuple[tuple[Adaptable, ...], ...]]
    graph_bytes: tuple[int, ...]
    activation_bytes: tuple[int, ...]
    widest_bytes: tuple[int, ...]

    def names(self, tower: TowerName) -> list[list[str]]:
        """Returns the modules that can be adapted, block by block, lowest first."""
        return [[module.name for module in block] for block in self.blocks[tower]]

    def find(self, name: str) -> Adaptable:
        """Returns the module with this name in the encoder."""
        return next(m for blocks in self.blocks.values() for block in blocks for m in block if m.name == name)

    def at(self, image_size: int) -> Structure:
        """Returns the structure at another image size; bytes before pooling grow with pixels or tokens."""
        pixels = (math.ceil(image_size / GRID) / math.ceil(self.image_size / GRID)) ** 2
        if self.num_tokens:
            pixels = (1 + (self.num_tokens - 1) * pixels) / self.num_tokens

        def scaled(sizes: tuple[int, ...]) -> tuple[int, ...]:
            return (*(math.ceil(size * pixels) for size in sizes[:-1]), sizes[-1])

        return self.model_copy(
            update={
                "image_size": image_size,
                "num_tokens": round(self.num_tokens * pixels),
                "graph_bytes": scaled(self.graph_bytes),
                "activation_bytes": scaled(self.activation_bytes),
                "widest_bytes": scaled(self.widest_bytes),
            }
        )


def structure_of(config: EncoderConfig) -> Structure | None:
    """Returns the structure of an encoder, or None without its description on this machine."""
    if is_kept(config):
        return _kept(config.name).at(preprocessing_of(config).size)
    try:
        unread: Any = config.model_copy(update={"precision": "float32"})  # Any: see `targets`
        return _built(unread)
    except WeightsUnavailable:
        return None


def is_kept(config: EncoderConfig) -> bool:
    """Returns whether the structure of an encoder is stored, so that tests check its presets.

    For parts converted on this machine, the shapes in their files decide, also which other sizes are
    possible.
    """
    if config.name not in _all_kept():
        return False
    parts = ENCODERS[config.name].parts
    return not parts or (config.image_size is None and not any(is_here(config.name, part) for part in parts))


@cache
def _kept(name: str) -> Structure:
    return Structure.model_validate(_all_kept()[name])


@cache
def _all_kept() -> dict[str, Any]:
    return json.loads(KEPT.read_text())


@cache
def _built(config: EncoderConfig) -> Structure:
    import torch

    from trainables.models.encoders.load import load_dual_encoder

    try:
        with torch.device("meta"):
            return measure(load_dual_encoder(config, weights=False, device="meta"))
    except (NotImplementedError, RuntimeError):  # a library that reads values while it builds a model
        return measure(load_dual_encoder(config, weights=False))


def measure(encoder: DualEncoder) -> Structure:
    """Returns the structure of an encoder that was built with or without weights."""
    sizes = [_sizes(encoder, cut) for cut in range(len(encoder.blocks("image")) + 1)]
    parameters = dict(encoder.named_parameters())
    return Structure(
        image_size=encoder.preprocessing.size,
        num_tokens=_num_tokens(encoder),
        num_parameters=sum(p.numel() for p in parameters.values()),
        tower_parameters={
            tower: sum(p.numel() for name, p in parameters.items() if name.startswith(beginnings))
            for tower, beginnings in encoder.towers().items()
        },
        projection_parameters={
            tower: sum(p.numel() for p in encoder.get_submodule(name).parameters())
            for tower, name in encoder.projections().items()
        },
        blocks={tower: adaptable_modules(encoder, tower) for tower in ("image", "text")},
        graph_bytes=tuple(graph for graph, _, _ in sizes),
        activation_bytes=tuple(activations for _, activations, _ in sizes),
        widest_bytes=tuple(widest for _, _, widest in sizes),
    )


def adaptable_modules(encoder: DualEncoder, tower: TowerName) -> tuple[tuple[Adaptable, ...], ...]:
    """Returns the adaptable modules, block by block, lowest first."""
    return tuple(
        tuple(
            Adaptable(name=f"{block}.{name}", matrices=matrices)
            for name, module in encoder.get_submodule(block).named_modules()
            if name and (matrices := _matrices(module))
        )
        for block in encoder.blocks(tower)
    )


def _matrices(module: nn.Module) -> tuple[tuple[int, int], ...]:
    from torch import nn

    if isinstance(module, nn.Conv2d) and module.groups == 1:  # PEFT cannot merge a grouped convolution
        return ((module.out_channels, module.weight[0].numel()),)
    return ((module.out_features, module.in_features),) if isinstance(module, nn.Linear) else ()


def _num_tokens(encoder: DualEncoder) -> int:
    first_block = _prefix(encoder, 1)
    return first_block.shape[1] if first_block.dim() == 3 else 0


def _prefix(encoder: DualEncoder, cut: int) -> Tensor:
    import torch

    size, channels = encoder.preprocessing.size, encoder.preprocessing.channels
    with torch.no_grad():
        pixels = torch.zeros(ROWS, channels, size, size, device=encoder.log_logit_scale.device)
        return encoder.encode_image_prefix(pixels, cut)


def _sizes(encoder: DualEncoder, cut: int) -> tuple[int, int, int]:
    """Returns graph, activation and widest bytes per image with `cut` frozen blocks."""
    import torch

    from trainables.models.encoders.saved_bytes import saved_bytes

    weights = [*encoder.parameters(), *encoder.buffers()]
    activations = _prefix(encoder, cut)
    widest = [0]

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del module, inputs
        if isinstance(output, torch.Tensor):
            widest[0] = max(widest[0], output.numel() * output.element_size())

    hooks = [module.register_forward_hook(look) for module in encoder.modules()]
    try:
        with torch.enable_grad(), saved_bytes(weights) as kept:
            encoder.encode_image_suffix(activations, cut)
    finally:
        for hook in hooks:
            hook.remove()
    values = kept[0], activations.numel() * activations.element_size(), widest[0]
    graph, entering, largest = (math.ceil(value / ROWS) for value in values)
    return graph, entering, largest


def kept_names() -> list[str]:
    """Returns the registered encoders whose structure is stored, because they can be built without a file."""
    return [name for name, spec in ENCODERS.items() if spec.parts or spec.files or spec.architecture]


def main() -> None:
    """Writes the stored structures."""
    configs: list[Any] = [EncoderConfig(name=name) for name in kept_names()]
    lines = [
        f"{json.dumps(config.name)}: {json.dumps(_built(config).model_dump(mode='json'))}"
        for config in configs
    ]
    KEPT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
