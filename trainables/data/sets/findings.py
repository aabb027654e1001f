"""The findings of a multi-label data set: makes labels of 1, 0 and -1 from what its files say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from trainables.config import DataConfig
from trainables.config.fields import nearest_or_all
from trainables.data.identifiers import label_key, one_line, text_key
from trainables.data.records import NO_FINDING, ImageRecord
from trainables.data.sets.classes import check_renamed, refuse_respelt
from trainables.data.sets.description import Row, SetDescription
from trainables.data.values import is_missing
from trainables.errors import DataError

SUPPORT_DEVICES = "Support Devices"
"""The finding that an image without any finding may have (CheXpert, Irvin et al. 2019)."""
_VALUES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1}
_STRENGTH: dict[int | None, int] = {0: 0, None: 1, -1: 2, 1: 3}
_HEALTHY = ("normal", "healthy", "none", "nofindings")
_POLICIES = {"ignore": -1, "ones": 1, "zeros": 0}
_IN_TRAIN = {
    value: "ignored" if value == -1 else f"read as {value} in train, and ignored in val and test"
    for value in _POLICIES.values()
}
_READ_AS = {-1: "ignored", 1: "read as 1", 0: "read as 0"}


def label_value(value: int | str | None) -> int | None:
    """Returns 1, 0, -1 (uncertain) or None (blank) for a value of a table, such as `-1.0`.

    Raises:
        ValueError: the value is none of these.
    """
    if value is None or (isinstance(value, str) and is_missing(value)):
        return None
    if (known := _VALUES.get(str(value).strip())) is None:
        raise ValueError(f"{value!r} is not 1, 0, -1 or blank")
    return known


def shared_labels(names: Sequence[str]) -> Callable[[Mapping[str, str]], Mapping[str, str]]:
    """Returns a function that takes the labels with these names from a row; equal rows share one mapping.

    A name that the row does not have is left out.
    """
    known: dict[tuple[str | None, ...], Mapping[str, str]] = {}

    def labels_of(values: Mapping[str, str]) -> Mapping[str, str]:
        key = tuple([values.get(name) for name in names])
        if key not in known:
            known[key] = {name: values[name] for name in names if name in values}
        return known[key]

    return labels_of


@dataclass(frozen=True)
class _Resolved:
    """The labels of an image, and how many of them were changed or are not known."""

    labels: dict[str, int]
    train_labels: dict[str, int] | None  # labels to train on, if they differ
    uncertain: Counter[int]  # value of uncertain labels in train → number of labels
    blank: Counter[str]  # what became of a blank label → number of labels
    is_contradictory: bool


@dataclass
class Findings:
    """The findings of a data set, `No Finding` being the last, and the finding of each label in its files."""

    names: tuple[str, ...]
    of_label: Mapping[str, str]  # comparable label (`text_key`) → finding
    uncertain: Mapping[str, int]  # finding → value of its uncertain labels in train
    reads_blank_as_zero: bool
    devices: str  # the name of `Support Devices` after `data.rename`
    _resolved: dict[tuple[tuple[str, int | str | None], ...], _Resolved] = field(default_factory=dict)

    def labels_of(self, row: Row) -> Mapping[str, int]:
        """Returns the labels of an image: finding → 1, 0 or -1 (unknown). Equal rows share one mapping.

        Raises:
            ValueError: the row has no label, a label that is no finding, or a value that is no label.
        """
        return self._of(row).labels

    def train_labels_of(self, row: Row) -> Mapping[str, int] | None:
        """Returns the labels to train on, or None if they are those of `labels_of`."""
        return self._of(row).train_labels

    def _of(self, row: Row) -> _Resolved:
        if row.labels is None:
            raise ValueError("the label is empty")
        key = tuple(row.labels.items())
        if (known := self._resolved.get(key)) is None:
            known = self._resolved[key] = self._resolve(row.labels)
        return known

    def _resolve(self, labels: Mapping[str, int | str | None]) -> _Resolved:
        said = self._said(labels)
        stated = said.pop(NO_FINDING, None)
        known = {name: value for name, value in said.items() if value is not None}
        uncertain = Counter(self.uncertain[name] for name, value in known.items() if value == -1)
        is_clear = stated == 1 and not self._has_finding(known)
        blank: Counter[str] = Counter()
        for name in self.names[:-1]:
            if name not in known:
                is_absent = is_clear and name != self.devices
                known[name] = 0 if is_absent or self.reads_blank_as_zero else -1
                blank["absent" if is_absent else _READ_AS[known[name]]] += 1
        to_train = {
            name: self.uncertain[name] if said.get(name) == -1 else value for name, value in known.items()
        }
        return _Resolved(
            labels=self._with_no_finding(known, stated),
            train_labels=self._with_no_finding(to_train, stated) if to_train != known else None,
            uncertain=uncertain,
            blank=blank,
            is_contradictory=stated == 1 and not is_clear,
        )

    def _has_finding(self, values: Mapping[str, int]) -> bool:
        return any(value == 1 for name, value in values.items() if name != self.devices)

    def _with_no_finding(self, values: Mapping[str, int], stated: int | None) -> dict[str, int]:
        """Returns the values in the order of the findings, with `No Finding` as stated or else derived."""
        if self._has_finding(values) or stated == 0:
            none = 0
        else:
            others = [value for name, value in values.items() if name != self.devices]
            none = 1 if stated == 1 or (others and not any(others)) else -1
        return {name: values[name] for name in self.names[:-1]} | {NO_FINDING: none}

    def _said(self, labels: Mapping[str, int | str | None]) -> dict[str, int | None]:
        """Returns finding → value. Of labels that are one finding, the strongest counts: 1, -1, blank, 0."""
        said: dict[str, int | None] = {}
        for label, text in labels.items():
            finding = self.of_label.get(text_key(one_line(label)))
            if finding is None:
                raise ValueError(f"label {label!r} is no finding{nearest_or_all(label, self.names)}")
            try:
                value = label_value(text)
            except ValueError as error:
                raise ValueError(f"label {label!r}: {error}") from None
            values = (said[finding], value) if finding in said else (value,)
            said[finding] = max(values, key=lambda each: _STRENGTH[each])
        return said

    def notes(self, records: Iterable[ImageRecord]) -> list[str]:
        """Returns what became of the uncertain and blank labels of these records, with counts."""
        by_mapping = {id(each.labels): each for each in self._resolved.values()}
        uncertain, blank, contradictory = Counter[int](), Counter[str](), 0
        for mapping, count in Counter(id(record.labels) for record in records).items():
            found = by_mapping[mapping]
            uncertain.update({value: n * count for value, n in found.uncertain.items()})
            blank.update({what: n * count for what, n in found.blank.items()})
            contradictory += count * found.is_contradictory
        notes = [f"labels: {n:,} uncertain (-1) {_IN_TRAIN[value]}" for value, n in sorted(uncertain.items())]
        if count := blank.pop("absent", 0):
            notes.append(f"labels: {count:,} blank read as 0, because the image has no finding")
        notes += [f"labels: {count:,} blank {what}" for what, count in sorted(blank.items())]
        if contradictory:
            notes.append(
                f"labels: {contradictory:,} images have both 'No Finding' and a finding, which counts"
            )
        return notes


def find_findings(description: SetDescription, config: DataConfig, rows: Sequence[Row]) -> Findings:
    """Returns the findings of a set, after `data.rename`.

    A described set names its findings. Otherwise each label is a finding, in the order of the rows.

    Raises:
        DataError: two labels look like one finding, or a setting names no finding.
    """
    counts: Counter[str] = Counter()
    for labels, number in Counter(tuple(row.labels or ()) for row in rows).items():
        counts.update({one_line(label): number for label in labels})
    renamed = check_renamed(config, [*counts, *description.findings.values()])
    known = {text_key(label): name for label, name in description.findings.items()}
    of_label: dict[str, str] = {}
    told = {text_key(label) for label in counts}
    described = [f for f in description.findings if not description.may_lack_findings or text_key(f) in told]
    for label in dict.fromkeys([*described, *counts]):
        name = known.get(text_key(label)) if known else label
        name = NO_FINDING if label_key(label) == label_key(NO_FINDING) else name
        if label in renamed:
            of_label[label] = renamed[label]
        elif name is not None:
            of_label[label] = renamed.get(name, name)
    if not known:
        _refuse_healthy(of_label)
        refuse_respelt(of_label, counts)
    names = [name for name in dict.fromkeys(of_label.values()) if name != NO_FINDING]
    if not names and set(of_label.values()) != {NO_FINDING}:  # only it: a data set for data.adapt_on
        raise DataError(f"{description.name}: no label is a finding")
    return Findings(
        names=(*names, NO_FINDING),
        of_label={text_key(label): name for label, name in of_label.items()},
        uncertain=_uncertain(config, names, description.name),
        reads_blank_as_zero=config.blank == "zeros",
        devices=renamed.get(SUPPORT_DEVICES, SUPPORT_DEVICES),
    )


def _refuse_healthy(of_label: Mapping[str, str]) -> None:
    for label, name in of_label.items():
        if label == name and label_key(label) in _HEALTHY:
            raise DataError(
                f"'{label}' stands among findings. If it means that there is none: "
                f'--set \'data.rename={{"{label}": "{NO_FINDING}"}}\'. If it is a finding, rename it'
            )


def _uncertain(config: DataConfig, names: Sequence[str], dataset: str) -> dict[str, int]:
    """Returns the value of the uncertain labels of each finding."""
    if isinstance(config.uncertain, str):
        return dict.fromkeys(names, _POLICIES[config.uncertain])
    asked = {one_line(name): _POLICIES[policy] for name, policy in config.uncertain}
    for name in asked:
        if name not in names and not config.union:  # another set of the union may have it
            raise DataError(
                f"data.uncertain: '{name}' is no finding of {dataset}{nearest_or_all(name, names)}"
            )
    return {name: asked.get(name, -1) for name in names}
