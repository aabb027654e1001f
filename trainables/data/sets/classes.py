"""Finds the classes of a data set from its labels, and refuses one class in two spellings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from trainables.config import DataConfig
from trainables.config.fields import nearest_or_all
from trainables.data.identifiers import label_key, one_line, text_key
from trainables.data.records import ImageRecord, one_hot
from trainables.data.sets.description import Row, SetDescription
from trainables.errors import DataError

JOIN_BY_BAR = "join them by '|', in a table of data.dataset=manifest"


@dataclass(frozen=True)
class Classes:
    """The classes of a data set, and the class of each label in its files."""

    names: tuple[str, ...]
    of_label: dict[str, str]
    _labels: dict[str, dict[str, int]]

    def labels_of(self, row: Row) -> Mapping[str, int]:
        """Returns the labels of an image. Images of a class share one mapping.

        Raises:
            ValueError: the label is empty, or names no class.
        """
        if not row.label:
            raise ValueError("the label is empty")
        if row.label not in self.of_label:
            raise ValueError(f"label {row.label!r} is none of {', '.join(map(repr, self.names))}")
        return self._labels[self.of_label[row.label]]

    def train_labels_of(self, row: Row) -> None:
        """Returns nothing: images of classes are trained on the labels of `labels_of`."""
        del row

    def notes(self, records: Iterable[ImageRecord]) -> list[str]:
        """Returns nothing: every label of a class is known."""
        del records
        return []


def find_classes(description: SetDescription, config: DataConfig, rows: Sequence[Row]) -> Classes:
    """Returns the classes of a set, after `data.rename`.

    A described set names its classes. Otherwise each label is a class, and classes are sorted by name.

    Raises:
        DataError: two labels look like one class, `data.rename` names no label, or fewer than two classes.
    """
    counts = Counter(row.label for row in rows if row.label)
    _refuse_several(rows, config)
    renamed = check_renamed(config, [*counts, *description.labels.values()])
    known = {text_key(label): name for label, name in description.labels.items()}
    of_label: dict[str, str] = {}
    for label in counts:
        name = known.get(text_key(label)) if known else label
        if label in renamed:  # a new name is final, so that two classes can swap their names
            of_label[label] = renamed[label]
        elif name is not None:
            of_label[label] = renamed.get(name, name)
    refuse_respelt(of_label, counts)
    named = [renamed.get(name, name) for name in description.labels.values()] or sorted(of_label.values())
    emptied = {known.get(text_key(label)) for label in renamed} - set(of_label.values())
    names = tuple(name for name in dict.fromkeys([*named, *of_label.values()]) if name not in emptied)
    if len(names) < 2:
        found = f"only '{names[0]}'" if names else "none"
        raise DataError(f"{description.name}: at least 2 classes are needed, but there is {found}")
    return Classes(names, of_label, one_hot(names))


def check_renamed(config: DataConfig, known: Collection[str]) -> dict[str, str]:
    """Returns `data.rename`: label → new name. Raises DataError for a blank name and for an unknown label."""
    renamed = {one_line(label): one_line(name) for label, name in config.rename}
    for label, name in renamed.items():
        if not name:
            raise DataError(f"data.rename: the new name of '{label}' is blank; give it a name")
        if label not in known:
            hint = nearest_or_all(label, list(dict.fromkeys(known)))
            raise DataError(f"data.rename: no image has the label '{label}'{hint}")
    return renamed


def _refuse_several(rows: Sequence[Row], config: DataConfig) -> None:
    labels = {row.label for row in rows if row.label}
    several = [row for row in rows if row.label and ("|" in row.label or joins_others(row.label, labels))]
    if several:
        first = several[0]
        is_told = config.task == "multiclass" and "|" in (first.label or "")
        raise DataError(
            f"{first.place or first.path}: column 'label': {first.label!r} names several findings "
            f"({len(several)} such images); " + ("leave data.task=multiclass out" if is_told else JOIN_BY_BAR)
        )


def joins_others(label: str, labels: Collection[str]) -> bool:
    """Returns whether a label joins other labels by a comma or a semicolon."""
    return any(part.strip() in labels for part in re.split("[;,]", label)[:-1])


def refuse_respelt(of_label: dict[str, str], counts: Counter[str]) -> None:
    """Raises an error for classes that differ only in case, blanks, marks, or the form of a number."""
    images: Counter[str] = Counter()
    for label, name in of_label.items():
        images[name] += counts[label]
    first: dict[str, str] = {}
    for name in images:
        other = first.setdefault(label_key(name), name)
        if other != name:
            rare, common = sorted((other, name), key=lambda each: (images[each], each))
            raise DataError(
                f"'{rare}' ({images[rare]}) and '{common}' ({images[common]}): one class? "
                f'Join them: --set \'data.rename={{"{rare}": "{common}"}}\'. If they are two '
                "classes, rename one so that more differs than case and marks"
            )
