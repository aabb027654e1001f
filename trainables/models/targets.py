"""From `lora.target_modules` to explicit module names, checked before anything starts. No torch at import."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainables.config import LoraConfig, TrialConfig
from trainables.errors import ConfigError
from trainables.models.registry import FAMILIES, Family, Tower, TowerName, find_encoder

if TYPE_CHECKING:
    from trainables.models.dual_encoder import DualEncoder

BlocksOf = Mapping[TowerName, Sequence[Sequence[str]]]
"""Of each tower, for each block, the names of the modules that can be adapted."""


def resolve_targets(encoder: DualEncoder, lora: LoraConfig) -> dict[TowerName, list[str]]:
    """Returns the modules to adapt, by tower, as names inside the encoder, lowest block first.

    Raises:
        ConfigError: an unknown preset, a name that matches nothing, or too many blocks; lists what is valid.
    """
    wanted = _Wanted.read(FAMILIES[encoder.family], lora, encoder.name)
    return wanted.find({tower: _adaptable(encoder, tower) for tower in towers_of(lora)})


def check_targets(config: TrialConfig) -> None:
    """Raises ConfigError if the adapters of a trial cannot be attached, or would change nothing.

    Where the names of a family are known they are checked without torch. For any other the structure is built
    with random weights, adapted, and proven alive on random images.
    """
    if "lora" not in config.adapt.method:
        return
    family = FAMILIES[find_encoder(config.encoder).family]
    wanted = _Wanted.read(family, config.lora, config.encoder.name)
    if not family.has_known_names:
        _prove_structure(config)
    elif all(family.tower(tower).outline for tower in towers_of(config.lora)):
        wanted.find({tower: family.tower(tower).outline or () for tower in towers_of(config.lora)})


def towers_of(lora: LoraConfig) -> tuple[TowerName, ...]:
    """Returns the towers that adapters go into."""
    return ("image", "text") if lora.towers == "both" else (lora.towers,)


def leaf_name(module: str) -> str:
    """Returns what a module is called in every block: its name after the last number in it."""
    return re.split(r"(?:^|\.)\d+\.", module)[-1]


@dataclass(frozen=True)
class _Wanted:
    """What `lora.target_modules` asks for, as regular expressions of the ends of module names."""

    lora: LoraConfig
    encoder: str
    patterns: Mapping[TowerName, tuple[str, ...]]
    leaves: tuple[str, ...]  # the names that a user listed; none for a preset

    @classmethod
    def read(cls, family: Family, lora: LoraConfig, encoder: str) -> _Wanted:
        """Takes it for a preset if every chosen tower has it, else for leaf names joined by commas."""
        name = lora.target_modules
        towers: dict[TowerName, Tower] = {tower: family.tower(tower) for tower in towers_of(lora)}
        if all(name in tower.presets for tower in towers.values()):
            patterns: dict[TowerName, tuple[str, ...]] = {
                t: tower.presets[name] for t, tower in towers.items()
            }
            return cls(lora, encoder, patterns, leaves=())
        leaves = [leaf.strip() for leaf in name.split(",") if leaf.strip()]
        known = [leaf for tower in towers.values() for leaf in tower.leaf_names()]
        unknown = [leaf for leaf in leaves if not _matching(known, [leaf])]
        is_half_a_preset = any(name in tower.presets for tower in towers.values())
        if not leaves or is_half_a_preset or (family.has_known_names and unknown):
            raise ConfigError(_unknown_targets(name, unknown or [name], towers, encoder))
        escaped = tuple(re.escape(leaf) for leaf in leaves)
        return cls(lora, encoder, dict.fromkeys(towers, escaped), tuple(leaves))

    def find(self, blocks: BlocksOf) -> dict[TowerName, list[str]]:
        """Returns the matching names of the upper blocks; every tower and every listed leaf must have one."""
        depth = self.lora.num_blocks
        if depth and depth > max(map(len, blocks.values())):
            counts = " and ".join(f"{len(of_tower)} {tower} blocks" for tower, of_tower in blocks.items())
            raise ConfigError(
                f"lora.num_blocks={depth}: {self.encoder} has {counts}; set it to null to adapt them all"
            )
        names: dict[TowerName, list[str]] = {
            tower: [name for block in of_tower[-(depth or len(of_tower)) :] for name in block]
            for tower, of_tower in blocks.items()
        }
        found: dict[TowerName, list[str]] = {
            tower: _matching(self.patterns[tower], names[tower]) for tower in names
        }
        everywhere = [name for of_tower in found.values() for name in of_tower]
        idle = [leaf for leaf in self.leaves if not _matching([re.escape(leaf)], everywhere)]
        empty = [tower for tower, of_tower in found.items() if not of_tower]
        if idle or empty:
            where = f"the upper {depth} blocks" if depth else "any block"
            valid = "; ".join(
                f"{tower}: {_listed(map(leaf_name, of_tower))}" for tower, of_tower in names.items()
            )
            raise ConfigError(
                f"lora.target_modules='{self.lora.target_modules}': {_listed(idle) or 'it'} matches no "
                f"module in {where} of the {' or '.join(empty or names)} tower of {self.encoder} "
                f"(leaf names there: {valid})"
            )
        return found


def _prove_structure(config: TrialConfig) -> None:
    import torch

    from trainables.models.liveness import prove_alive
    from trainables.models.load import load_dual_encoder
    from trainables.models.lora import attach

    encoder = load_dual_encoder(config.encoder, weights=False)
    size = encoder.preprocessing.size
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, size, size), dtype=torch.uint8, generator=random)
    prove_alive(encoder, attach(encoder, config), images, encoder.tokenize(["a clear lung", "an opacity"]))


def _adaptable(encoder: DualEncoder, tower: TowerName) -> list[list[str]]:
    from torch import nn

    def can_be_adapted(module: nn.Module) -> bool:
        if isinstance(module, nn.Conv2d):
            return module.groups == 1  # PEFT cannot merge a grouped convolution
        return isinstance(module, nn.Linear | nn.MultiheadAttention)

    return [
        [
            f"{block}.{name}"
            for name, module in encoder.get_submodule(block).named_modules()
            if can_be_adapted(module)
        ]
        for block in encoder.blocks(tower).names
    ]


def _matching(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """Returns the names that end, from a dot on, as one of the patterns says."""
    ending = re.compile(rf"(?:^|\.)(?:{'|'.join(patterns)})$")
    return [name for name in names if ending.search(name)]


def _unknown_targets(name: str, unknown: list[str], towers: dict[TowerName, Tower], encoder: str) -> str:
    presets = [preset for tower in towers.values() for preset in tower.presets if preset != name]
    near = difflib.get_close_matches(name, presets, n=1)
    valid = "; ".join(
        f"{name} tower: presets {_listed(tower.presets)}, leaf names {_listed(tower.leaf_names())}"
        for name, tower in towers.items()
    )
    return (
        f"lora.target_modules='{name}': {_listed(unknown)} is neither a preset of every chosen tower of "
        f"{encoder} "
        f"nor a leaf name{f'; did you mean {near[0]!r}?' if near else ''} ({valid})"
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
