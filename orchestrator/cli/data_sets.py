"""`data list` and `data show`: what is known of each data set that has a name."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption, print_json, print_line
from trainables.config import Task
from trainables.errors import ConfigError
from trainables.shell import command

# Imports inside functions: other commands start without the modules of data sets.

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of a data set, as in data.dataset.", show_default=False)
]
PATIENTS = {
    True: "known; splits and intervals are by patient",
    False: "not known; splits and intervals are by image",
    None: "depends on the files",
}
"""`SetFacts.has_patients` → what it means."""


@dataclass(frozen=True)
class SetFacts:
    """What is known of a data set. An empty value is not known, or does not apply."""

    name: str
    title: str
    task: Task | None  # None: it depends on the files
    classes: tuple[str, ...]  # or findings
    size: str
    has_patients: bool | None
    licence: str
    url: str
    citation: str
    layout: str
    traps: tuple[str, ...]
    trained_on: dict[str, list[str]]  # encoder → parts of the data set that it was trained on

    def lines(self) -> list[tuple[str, str]]:
        """Returns the facts as lines with labels."""
        lines = [
            ("name", self.name),
            ("about", self.title),
            ("findings" if self.task == "multilabel" else "classes", ", ".join(self.classes)),
            ("size", self.size),
            ("patients", PATIENTS[self.has_patients]),
            ("licence", self.licence),
            ("page", self.url),
            ("citation", self.citation),
            ("layout", self.layout),
            *(("note", trap) for trap in self.traps),
            *(
                ("not external", f"{encoder}: {', '.join(parts)}")
                for encoder, parts in self.trained_on.items()
            ),
        ]
        return [(label, text) for label, text in lines if text]


def list_sets(as_json: JsonOption = False) -> None:
    """List every data set that can be read by its name: size, and whether patients are known."""
    from trainables.data.datasets import DATASETS

    listed = [facts_of(name) for name in DATASETS]
    if as_json:
        print_json([asdict(facts) for facts in listed])
        return
    for facts in listed:
        print_line(f"{facts.name}: {facts.title}")
        if facts.size:
            print_line(f"    {facts.size}")
        print_line(f"    patients: {PATIENTS[facts.has_patients]}")
    print_line(f"Layout, licence and traps: {command('data show NAME')}")


def show(name: NameArgument, as_json: JsonOption = False) -> None:
    """Show what is known of one data set, and which encoders were trained on its images."""
    facts = facts_of(name)
    if as_json:
        print_json(asdict(facts))
        return
    lines = facts.lines()
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        print_line(f"{label:{width}}  {text}")


def facts_of(name: str) -> SetFacts:
    """Returns what is known of a data set.

    Raises:
        ConfigError: no data set has this name; the message suggests the nearest.
    """
    from trainables import resolve
    from trainables.config.fields import nearest_or_all
    from trainables.data.datasets import DATASETS
    from trainables.data.sets.description import SetDescription

    if name not in DATASETS:
        raise ConfigError(f"data show {name}: no data set has this name{nearest_or_all(name, DATASETS)}")
    found = resolve(DATASETS[name])
    if not isinstance(found, SetDescription):  # a function, described by its module
        title = (sys.modules[found.__module__].__doc__ or "").strip()
        found = SetDescription(name, title, rows=lambda _: ())
    return SetFacts(
        name=name,
        title=found.title,
        task=found.task,
        classes=found.classes,
        size=found.size,
        has_patients=found.has_patients,
        licence=found.licence,
        url=found.url,
        citation=found.citation,
        layout=found.layout,
        traps=found.traps,
        trained_on=_trained_on(name),
    )


def _trained_on(name: str) -> dict[str, list[str]]:
    """Returns encoder → the parts of a data set that it was trained on, as far as known."""
    from trainables.models.catalogue.origins import overlaps
    from trainables.models.catalogue.other_systems import OTHER_SYSTEMS
    from trainables.models.catalogue.registry import ENCODERS

    systems = {**ENCODERS, **OTHER_SYSTEMS}
    seen = {system: overlaps(facts.pretrained_on, name) for system, facts in systems.items()}
    return {system: [str(part) for part in parts] for system, parts in seen.items() if parts}
