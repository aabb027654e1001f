"""Computes the memory and disk that a trial needs from the shapes of its encoder. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from trainables.config import AdaptConfig, EncoderConfig, LoraConfig, TrialConfig
from trainables.models.adapters.targets import planned_targets
from trainables.models.catalogue.classifiers import ARCHITECTURES, graph_bytes
from trainables.models.encoder_spec import TowerName
from trainables.models.encoders.structure import Structure, structure_of

FLOAT = 4
STATES = 3
"""Values stored per trained weight in addition to it: a gradient and two moments."""
LONGEST_CAPTION = 77
"""The maximum number of tokens of CLIP; our captions are shorter."""
TEXT_GRAPH_FACTOR = 2
"""Multiple of the inputs and outputs of all linear layers; it includes what norms and activations keep."""
EMBEDDED_AT_ONCE, PREPARED_AT_ONCE, CLASSIFIED_AT_ONCE = 256, 64, 64
"""Images in a forward pass without a graph: trained blocks, frozen blocks, and baselines."""


@dataclass(frozen=True)
class Footprint:
    """Upper estimates of the memory and disk of a trial, in bytes.

    Attributes:
        num_trainable: number of trainable scalars, not bytes.
        weights: weights of the encoder with its adapters.
        optimizer: gradients and moments.
        forward: memory of a forward pass without a graph, when all images are embedded.
        graphs_per_pair: memory that the backward pass needs per image and caption.
        largest_graph: memory of the graph of one row, the minimum for a micro-batch.
        activations: cached activations of one image in one view; 0 if the whole tower trains.
        num_kept: number of values that a checkpoint holds per trained weight.
    """

    num_trainable: int
    weights: int
    optimizer: int
    forward: int
    graphs_per_pair: int
    largest_graph: int
    activations: int
    num_kept: int = STATES

    @property
    def resident(self) -> int:
        """Returns the memory that does not depend on the batch."""
        return self.weights + self.optimizer + self.forward

    @property
    def checkpoint(self) -> int:
        """Returns the bytes on disk: trained weights and both moments."""
        return self.num_trainable * self.num_kept * FLOAT


def footprint(config: TrialConfig) -> Footprint | None:
    """Returns the memory and disk that a trial needs, or None if the encoder is not on this machine."""
    if config.is_baseline:
        return _of_classifier(config)
    lora = config.lora.model_copy(update={"scaling": 1.0, "dropout": 0.0})  # controls need no memory
    # Any: pyright does not know that frozen models are hashable.
    parts: Any = config.encoder, config.adapt, lora, config.loss.kind != "cross_entropy"
    return _footprint(*parts)


def _of_classifier(config: TrialConfig) -> Footprint:
    """Returns the footprint of a classifier. Its checkpoint also holds the best weights."""
    architecture, graph = ARCHITECTURES[config.baseline.architecture], graph_bytes(config.baseline)
    num_trainable = architecture.num_parameters
    return Footprint(
        num_trainable=num_trainable,
        weights=2 * num_trainable * FLOAT,
        optimizer=num_trainable * STATES * FLOAT,
        forward=CLASSIFIED_AT_ONCE * graph // 4,
        graphs_per_pair=graph,
        largest_graph=graph * (1 if architecture.is_cut else config.global_batch_size),
        activations=0,
        num_kept=STATES + 1,
    )


@cache
def _footprint(
    encoder: EncoderConfig, adapt: AdaptConfig, lora: LoraConfig, reads_text: bool
) -> Footprint | None:
    structure = structure_of(encoder)
    if structure is None:
        return None
    trial = TrialConfig(encoder=encoder, adapt=adapt, lora=lora)
    adapted = planned_targets(trial, structure) if "lora" in adapt.method else {}
    num_trainable = _num_trainable(trial, structure, adapted)
    cut = _cut(trial, structure, adapted.get("image", []))
    trains_images = cut < len(structure.blocks["image"]) or "image" in _projected(trial, structure)
    trains_text = reads_text and ("text" in adapted or "text" in _full_towers(trial))
    image = structure.graph_bytes[cut] * trains_images
    text = _text_graph(structure) * trains_text  # a projection alone needs almost no memory
    frozen = 2 if encoder.precision == "bfloat16" else FLOAT
    widest = EMBEDDED_AT_ONCE * structure.widest_bytes[cut], PREPARED_AT_ONCE * structure.widest_bytes[0]
    return Footprint(
        num_trainable=num_trainable,
        weights=structure.num_parameters * frozen + num_trainable * FLOAT,
        optimizer=num_trainable * STATES * FLOAT,
        forward=2 * max(widest),  # the input and the output of a layer
        graphs_per_pair=image + text,
        largest_graph=max(image, text),
        activations=structure.activation_bytes[cut] * frozen // FLOAT if cut else 0,
    )


def _num_trainable(config: TrialConfig, structure: Structure, adapted: dict[TowerName, list[str]]) -> int:
    """Returns the number of trainable scalars: adapters, projections, whole towers, and the logit scale."""
    adapters = (structure.find(name) for names in adapted.values() for name in names)
    return (
        sum(module.num_parameters(config.lora.rank) for module in adapters)
        + sum(_projected(config, structure).values())
        + sum(structure.tower_parameters[tower] for tower in _full_towers(config))
        + int(config.adapt.method != "none")
    )


def _projected(config: TrialConfig, structure: Structure) -> dict[TowerName, int]:
    return structure.projection_parameters if "projection" in config.adapt.method else {}


def _full_towers(config: TrialConfig) -> set[TowerName]:
    if config.adapt.method != "full":
        return set()
    return {"image", "text"} if config.adapt.towers == "both" else {config.adapt.towers}


def _cut(config: TrialConfig, structure: Structure, adapted: list[str]) -> int:
    """Returns the number of the lowest image block that trains, as `attach` does."""
    if "image" in _full_towers(config):
        return 0
    blocks = structure.names("image")
    return next((i for i, names in enumerate(blocks) if set(names) & set(adapted)), len(blocks))


def _text_graph(structure: Structure) -> int:
    modules = [module for block in structure.blocks["text"] for module in block]
    values = sum(rows + columns for module in modules for rows, columns in module.matrices)
    return values * FLOAT * LONGEST_CAPTION * TEXT_GRAPH_FACTOR
