"""The trainable part of an encoder, as `attach` returns it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from trainables.models.encoder_spec import TowerName


@dataclass(frozen=True)
class Adaptation:
    """The trainable part of an encoder.

    Attributes:
        method: `adapt.method`.
        parameters: everything that trains, by name inside the encoder, in a stable order.
        targets: modules that carry an adapter, by tower.
        image_cut: image blocks below it are frozen and unadapted, so their activations never change.
    """

    method: str
    parameters: dict[str, nn.Parameter]
    targets: dict[TowerName, list[str]]
    image_cut: int
    adapts_image: bool
    adapts_text: bool

    @property
    def num_trainable(self) -> int:
        """Number of trainable scalars."""
        return sum(parameter.numel() for parameter in self.parameters.values())
