"""Resolves `lora.target_modules` to module names, and checks them before a trial starts. Imports no torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainables.config import LoraConfig, TrialConfig
from trainables.errors import ConfigError
from trainables.models.catalogue.registry import FAMILIES, find_encoder
from trainables.models.catalogue.towers import leaf_name
from trainables.models.encoder_spec import Family, Tower, TowerName
from trainables.models.encoders.structure import (
    Adaptable,
    Structure,
    adaptable_modules,
)

if TYPE_CHECKING:
    from trainables.models.encoders.dual_encoder import DualEncoder

BlocksOf = Mapping[TowerName, Sequence[Sequence[str]]]
"""For each tower and each block, the names of the modules that can be adapted."""


def resolve_targets(encoder: DualEncoder, lora: LoraConfig) -> dict[TowerName, list[str]]:
    """Returns the modules to adapt by tower, as names in the encoder, lowest block first."""
    wanted = _Wanted.read(FAMILIES[encoder.family], lora, encoder.name)
    return _find(wanted, {tower: adaptable_modules(encoder, tower) for tower in towers_of(lora)})


def planned_targets(config: TrialConfig, structure: Structure) -> dict[TowerName, list[str]]:
    """Returns the modules that a trial will adapt, by tower; see `resolve_targets`."""
    wanted = _Wanted.read(FAMILIES[find_encoder(config.encoder).family], config.lora, config.encoder.name)
    return _find(wanted, {tower: structure.blocks[tower] for tower in towers_of(config.lora)})


def towers_of(lora: LoraConfig) -> tuple[TowerName, ...]:
    """Returns the towers that get adapters."""
    return ("image", "text") if lora.towers == "both" else (lora.towers,)


@dataclass(frozen=True)
class _Wanted:
    """The setting `lora.target_modules`, as regular expressions that match the ends of module names."""

    lora: LoraConfig
    encoder: str
    patterns: Mapping[TowerName, tuple[str, ...]]
    leaves: tuple[str, ...]  # the leaf names that a user listed; () for a preset

    @classmethod
    def read(cls, family: Family, lora: LoraConfig, encoder: str) -> _Wanted:
        """Reads the setting: a preset if every chosen tower has one with this name, else leaf names."""
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
        """Returns the matching modules of the upper blocks; each tower and each listed name needs a match."""
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
                f"(known leaf names: {valid})"
            )
        return found


def _find(
    wanted: _Wanted, blocks: Mapping[TowerName, Sequence[Sequence[Adaptable]]]
) -> dict[TowerName, list[str]]:
    names: dict[TowerName, list[list[str]]] = {
        tower: [[m.name for m in block] for block in of_tower] for tower, of_tower in blocks.items()
    }
    found = wanted.find(names)
    chosen = {name for of_tower in found.values() for name in of_tower}
    modules = [m for of_tower in blocks.values() for block in of_tower for m in block if m.name in chosen]
    smallest = min(modules, key=lambda module: module.largest_rank)
    if wanted.lora.rank > smallest.largest_rank:
        sizes = " and ".join(f"{rows} × {columns}" for rows, columns in smallest.matrices)
        raise ConfigError(
            f"lora.rank={wanted.lora.rank}: '{smallest.name}' of {wanted.encoder} is {sizes}, so its adapter "
            f"has at most rank {smallest.largest_rank}; use lora.rank={smallest.largest_rank} or less, "
            "or remove the module from lora.target_modules"
        )
    return found


def _matching(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """Returns the names of which the end after a dot matches one of the patterns."""
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
