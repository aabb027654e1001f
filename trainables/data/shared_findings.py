"""The findings of several data sets by common names: labels with the same shipped words are one finding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from trainables.config import DataConfig
from trainables.config.fields import nearest_or_all
from trainables.data.identifiers import one_line, text_key
from trainables.data.records import NO_FINDING
from trainables.data.words.shipped import read_shipped
from trainables.errors import DataError

WORDS = "chest_findings"
"""The shipped words, which list the spellings of each finding."""
Labels = Mapping[str, int]


class SharedFindings:
    """The findings of a union, and which of them each label of each set is."""

    def __init__(self, classes: Mapping[str, Sequence[str]], config: DataConfig) -> None:
        """Maps the labels of each set (name of the set → its classes), and applies `data.rename`.

        Raises:
            DataError: `data.rename` or `data.uncertain` names a finding that no set has.
        """
        renamed = {one_line(label): one_line(name) for label, name in config.rename}
        found = {
            name: {label: canonical(label) for label in labels if label != NO_FINDING}
            for name, labels in classes.items()
        }
        known = dict.fromkeys(finding for labels in found.values() for finding in labels.values())
        _check_known("rename", renamed, known)
        if not isinstance(config.uncertain, str):
            _check_known("uncertain", (name for name, _ in config.uncertain), known)
        to = {finding: finding for finding in known} | {canonical(old): new for old, new in renamed.items()}
        self.of = {
            name: {label: to[finding] for label, finding in labels.items()} | {NO_FINDING: NO_FINDING}
            for name, labels in found.items()
        }
        findings = dict.fromkeys(to[finding] for finding in known)
        self.names = (*(name for name in findings if name != NO_FINDING), NO_FINDING)
        self._known: dict[tuple[str, tuple[int, ...]], Labels] = {}

    def labels(self, name: str, of_set: Labels) -> Labels:
        """Returns the labels of an image of a set in the union. Images with equal labels share one mapping.

        Of labels of a set that are one finding, the strongest counts: 1, -1, 0.
        """
        key = name, tuple(of_set.values())
        if key not in self._known:
            values: dict[str, list[int]] = {}
            for label, value in of_set.items():
                values.setdefault(self.of[name][label], []).append(value)
            self._known[key] = {
                finding: max(values.get(finding, [-1]), key=(0, -1, 1).index) for finding in self.names
            }
        return self._known[key]

    def notes(self) -> list[str]:
        """Returns which findings every set has, and which ones a set lacks."""
        has = {name: set(labels.values()) for name, labels in self.of.items()}
        shared = [finding for finding in self.names[:-1] if all(finding in of for of in has.values())]
        lacking = {name: [f for f in self.names if f not in of] for name, of in has.items()}
        return [
            f"findings of every data set: {', '.join(shared) or 'none'}",
            *(f"unknown in {name}: {', '.join(findings)}" for name, findings in lacking.items() if findings),
        ]


def _check_known(setting: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if canonical(one_line(name)) not in known:
            raise DataError(
                f"data.{setting}: '{name}' is no finding of the union{nearest_or_all(name, list(known))}"
            )


def canonical(label: str) -> str:
    """Returns the name of a finding in the shipped words, such as `Pleural Effusion` for `Effusion`."""
    return next(iter(spellings(label)))


def spellings(label: str) -> tuple[str, ...]:
    """Returns every spelling of a finding in the shipped words, its name first; unknown: the label alone."""
    return _all_spellings().get(text_key(label), (label,))


@cache
def _all_spellings() -> dict[str, tuple[str, ...]]:
    classes = read_shipped(WORDS).classes
    groups = [(one_line(name), *map(one_line, words.also)) for name, words in classes.items()]
    return {text_key(spelling): group for group in groups for spelling in group}
