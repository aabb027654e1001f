"""Chooses the words of a data set: the user's file, a shipped file, or words made from the labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from trainables.config.fields import did_you_mean
from trainables.data.records import NO_FINDING
from trainables.data.words.made import make_words, means_normal
from trainables.data.words.shipped import find_shipped, read_shipped
from trainables.data.words.words import Words
from trainables.data.words.words_file import WRITE, ClassWords, WordsFile, read_words_file
from trainables.errors import ConfigError
from trainables.places import found
from trainables.shell import command


def choose_words(labels: Sequence[str], *, shipped: str | None = None, path: Path | None = None) -> Words:
    """Returns the words for the classes of a data set.

    The first of these that applies: the user's file; the shipped file of the data set, if it has every class;
    a shipped file that has every class; words made from the labels.

    A user's file for findings need not have `No Finding`, which a data set often derives: shipped words are
    used for it, unless another class of the file means the same.

    Args:
        labels: the classes, as the data set spells them.
        shipped: name of the data set's own words file, if there is one.
        path: `data.prompts`, the user's file.

    Raises:
        ConfigError: the user's file is missing, is no words file, or lacks a class.
    """
    if path is not None:
        content = _read(path)
        known = content.by_label()
        has_normal = any(means_normal(label) for label in known)
        added = {} if has_normal or NO_FINDING not in labels else {NO_FINDING: _no_finding()}
        _check_covers([*known, *added], labels, path)
        words = {label: known.get(label) or added[label] for label in labels}
        return Words(words, "file", str(path), content.sources, tuple(added))
    if shipped is None or not read_shipped(shipped).by_label().keys() >= set(labels):
        shipped = find_shipped(labels)
    if shipped is None:
        return Words(make_words(labels), "made")
    content = read_shipped(shipped)
    known = content.by_label()
    return Words({label: known[label] for label in labels}, "shipped", shipped, content.sources)


@lru_cache(maxsize=16)
def _read(path: Path) -> WordsFile:
    """Returns the user's file, read once per process: trials of one driver never see different words."""
    return read_words_file(found(path), shown=path)


def _no_finding() -> ClassWords:
    """Returns the shipped words for `No Finding`, without published prompts: those of the file may differ."""
    shipped = read_shipped("chest_findings").classes[NO_FINDING]
    return shipped.model_copy(update={"published": {}})


def _check_covers(known: Sequence[str], labels: Sequence[str], path: Path) -> None:
    missing = [label for label in labels if label not in known]
    if not missing:
        return
    unused = [label for label in known if label not in labels]
    hints = [_near(label, unused) for label in missing]
    names = "; ".join(f"'{label}'{hint}" for label, hint in zip(missing, hints, strict=True))
    raise ConfigError(
        f"data.prompts: {path} has no words for {names} (the file has: {', '.join(known)}). Spell labels as "
        f"in the data set, or write a file with every class: {command(WRITE)}"
    )


def _near(label: str, unused: list[str]) -> str:
    folded = {name.casefold(): name for name in reversed(unused)}
    if label.casefold() in folded:
        return f" (the file has '{folded[label.casefold()]}')"
    hint = did_you_mean(label, unused)
    return f" ({hint.removeprefix('; ')})" if hint else ""
