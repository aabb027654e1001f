"""Describes every encoder and baseline for `models`: its properties and its availability."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from trainables.config.fields import did_you_mean
from trainables.errors import ConfigError
from trainables.models.catalogue.availability import Availability, availability
from trainables.models.catalogue.guide import advise
from trainables.models.catalogue.origins import DATA_SETS, overlaps
from trainables.models.catalogue.other_systems import OTHER_SYSTEMS, OtherSystem
from trainables.models.catalogue.registry import ENCODERS, FAMILIES, encoder_preprocessing
from trainables.models.encoder_spec import EncoderSpec, TowerName
from trainables.models.files.weights import fetched_revision

TOWERS: tuple[TowerName, ...] = ("image", "text")


@dataclass(frozen=True)
class System:
    """One encoder or baseline: its registered properties, and whether its weights are installed."""

    name: str
    kind: str
    facts: EncoderSpec | OtherSystem
    here: Availability
    preprocessing: dict[str, Any]
    revision: str | None
    note: str
    targets: dict[str, dict[str, list[str]]] = field(default_factory=dict[str, dict[str, list[str]]])
    """Tower → preset of `lora.target_modules` → patterns of module names."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the system as JSON-like values."""
        facts, here = self.facts, self.here
        return {
            "name": self.name,
            "kind": self.kind,
            "about": facts.about,
            "status": here.status,
            "reason": here.reason,
            "licence": facts.licence,
            "num_parameters": facts.num_parameters,
            "pooled_dim": facts.pooled_dim,
            "joint_dim": facts.joint_dim,
            "has_text": facts.has_text,
            "presets": {tower: list(presets) for tower, presets in self.targets.items()},
            "targets": self.targets,
            "pretrained_on": list(facts.pretrained_on),
            "overlaps": self.overlaps,
            "preprocessing": self.preprocessing,
            "revision": self.revision,
            "page": facts.page,
            "note": self.note,
            "steps": list(here.steps),
        }

    @property
    def overlaps(self) -> dict[str, list[str]]:
        """Returns, for each data set, the parts that the system was trained on. Empty = none."""
        seen = {name: [str(part) for part in overlaps(self.facts.pretrained_on, name)] for name in DATA_SETS}
        return {name: parts for name, parts in seen.items() if parts}

    @property
    def standing(self) -> str:
        """Returns the availability of the system, with a reason if it is not available."""
        return f"{self.here.status}: {self.here.reason}" if self.here.reason else self.here.status

    @property
    def summary(self) -> str:
        """Returns kind, size, dimensions, presets and licence in one line."""
        size = "" if self.facts.num_parameters is None else f"{self.facts.num_parameters / 1e6:.0f} M weights"
        dims = " → ".join(
            str(dim) for dim in (self.facts.pooled_dim, self.facts.joint_dim) if dim is not None
        )
        presets = f"LoRA {', '.join(self.targets['image'])}" if self.targets else ""
        text = {True: "with text", False: "no text tower", None: ""}[self.facts.has_text]
        return "; ".join(part for part in (self.kind, size, dims, text, presets, self.facts.licence) if part)

    def lines(self) -> list[tuple[str, str]]:
        """Returns all properties as labelled lines."""
        dims = {"pooled": self.facts.pooled_dim, "joint": self.facts.joint_dim}
        asked = {True: "yes", False: "no: only probes are possible, no zero-shot prompts", None: ""}
        lines = [
            ("name", self.name),
            ("kind", self.kind),
            ("about", self.facts.about),
            ("status", self.standing),
            ("licence", self.facts.licence),
            ("parameters", "" if self.facts.num_parameters is None else f"{self.facts.num_parameters:,}"),
            ("dimensions", ", ".join(f"{dim} {name}" for name, dim in dims.items() if dim is not None)),
            ("text tower", asked[self.facts.has_text]),
            ("revision", self.revision or ""),
            ("trained on", ", ".join(self.facts.pretrained_on)),
            *(("not external", f"{data}: {', '.join(seen)}") for data, seen in self.overlaps.items()),
            ("pixels", ", ".join(f"{key} {value}" for key, value in self.preprocessing.items())),
        ]
        lines += [
            (f"{tower} preset", f"{preset}: {', '.join(names)}")
            for tower, presets in self.targets.items()
            for preset, names in presets.items()
        ]
        lines += [
            ("page", self.facts.page),
            ("note", self.note),
            *(("to get it", step) for step in self.here.steps),
        ]
        return [(label, text) for label, text in lines if text]


@dataclass(frozen=True)
class Choice:
    """A recommended encoder. `overlaps` lists the parts of the data set in its training data."""

    name: str
    status: str
    licence: str
    overlaps: list[str]


@dataclass(frozen=True)
class Recommendation:
    """Encoders for one data set or need, best first."""

    purpose: str
    reason: str
    choices: list[Choice]

    def to_dict(self) -> dict[str, Any]:
        """Returns the recommendation as JSON-like values."""
        return asdict(self)


def find(name: str) -> tuple[str, EncoderSpec]:
    """Returns the name and the specification of a registered encoder.

    Raises:
        ConfigError: the encoder is unknown; suggests the nearest name.
    """
    if name in ENCODERS:
        return name, ENCODERS[name]
    if name in OTHER_SYSTEMS:
        other = OTHER_SYSTEMS[name].availability()
        raise ConfigError(f"{name}: is not a dual encoder; {'; '.join(other.steps) or other.reason}")
    known = [*ENCODERS, *OTHER_SYSTEMS]
    hint = did_you_mean(name, known) or f" (known: {', '.join(known)})"
    raise ConfigError(f"models: no system '{name}'{hint}")


def describe_all() -> list[System]:
    """Returns all encoders and baselines, dual encoders first."""
    return [describe(name) for name in (*ENCODERS, *OTHER_SYSTEMS)]


def describe(name: str) -> System:
    """Returns the properties of one encoder or baseline.

    Raises:
        ConfigError: the name is unknown; suggests the nearest name.
    """
    if name in OTHER_SYSTEMS:
        return _describe_other(name, OTHER_SYSTEMS[name])
    _, spec = find(name)
    family, here = FAMILIES[spec.family], availability(name, spec)
    targets = {tower: {p: list(n) for p, n in family.tower(tower).presets.items()} for tower in TOWERS}
    return System(
        name,
        "dual encoder",
        spec,
        here,
        encoder_preprocessing(spec).identity(),
        spec.revision or (None if spec.is_pinned else _unpinned(name)),
        spec.note,
        targets,
    )


def _describe_other(name: str, other: OtherSystem) -> System:
    here, pixels = other.availability(), other.preprocessing
    note = "" if here.reason == other.how else other.how
    return System(name, other.kind, other, here, pixels.identity() if pixels else {}, other.revision, note)


def _unpinned(name: str) -> str:
    fetched = fetched_revision(name)
    return (
        f"{fetched}, as downloaded" if fetched else "not pinned: give a commit to 'models fetch --revision'"
    )


def recommendations(data: str | None, need: str | None) -> list[Recommendation]:
    """Returns the encoders to try first.

    Raises:
        ConfigError: there is no advice for this data set or need; suggests the nearest name.
    """
    found: list[Recommendation] = []
    for purpose, advice in advise(data, need):
        choices = [
            Choice(
                name=name,
                status=availability(name, ENCODERS[name]).status,
                licence=ENCODERS[name].licence,
                overlaps=[str(o) for o in overlaps(ENCODERS[name].pretrained_on, data)] if data else [],
            )
            for name in advice.encoders
        ]
        found.append(Recommendation(purpose, advice.reason, choices))
    return found
