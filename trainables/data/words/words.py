"""The words of a data set, one entry for each class, and where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from trainables.artifacts import fingerprint
from trainables.config.fields import nearest_or_all
from trainables.data.words.checks import check_words
from trainables.data.words.words_file import WRITE, ClassWords, Prompt
from trainables.errors import ConfigError
from trainables.shell import command

Origin = Literal["shipped", "file", "made"]


@dataclass(frozen=True)
class Words:
    """The words for the classes of a data set, in the order of the classes.

    Attributes:
        classes: label → words.
        origin: `shipped` with the project, the user's `file`, or `made` from the labels.
        source: the name of the shipped file, or the path of the user's file; empty for made words.
        sources: source of published prompts → paper and file.
        added: labels that the user's file lacks, and whose words are shipped.
    """

    classes: Mapping[str, ClassWords] = field(default_factory=dict[str, ClassWords])
    origin: Origin = "made"
    source: str = ""
    sources: Mapping[str, str] = field(default_factory=dict[str, str])
    added: tuple[str, ...] = ()

    def of(self, label: str) -> ClassWords:
        """Returns the words for a class."""
        if label not in self.classes:
            raise ConfigError(
                f"class '{label}' has no captions and prompts (known: {', '.join(self.classes) or 'none'})"
            )
        return self.classes[label]

    def published(self, source: str | None) -> dict[str, tuple[Prompt, ...]]:
        """Returns label → published prompts of one source; None = the only source that has every class.

        Raises:
            ConfigError: the source is unknown or lacks a class, or the source is not given and several have
                every class, or none has.
        """
        known = dict.fromkeys(source for words in self.classes.values() for source in words.published)
        lacking = {
            source: [label for label, words in self.classes.items() if source not in words.published]
            for source in known
        }
        whole = [source for source, labels in lacking.items() if not labels]
        if source is None and len(whole) > 1:
            raise ConfigError(
                f"zero_shot.published_by: {' and '.join(whole)} have prompts for every class; choose one: "
                f"--set zero_shot.published_by={whole[0]}"
            )
        if source is not None and source not in known:
            hint = nearest_or_all(source, known) if known else ""
            raise ConfigError(f"zero_shot.published_by: no prompts of '{source}' for these classes{hint}")
        asked = whole[0] if source is None and whole else source
        if asked is None or lacking[asked]:
            names = known if asked is None else [asked]
            gaps = [f"{name} has none for {', '.join(map(repr, lacking[name]))}" for name in names]
            raise ConfigError(
                "zero_shot.prompts: 'published' needs prompts of one source for every class: "
                f"{'; '.join(gaps) or 'these classes have none'}. Remove 'published', or add prompts to a "
                f"words file: {command(WRITE)}"
            )
        return {label: words.published[asked] for label, words in self.classes.items()}

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the words. It does not depend on their origin."""
        said = {name: words.model_dump(mode="json", exclude={"also"}) for name, words in self.classes.items()}
        return fingerprint("words", said)

    def doubts(self, reports: Iterable[str] = ()) -> list[str]:
        """Returns one line for each doubt about the words. `reports` are further training texts."""
        return check_words(self.classes, are_made=self.origin == "made", reports=reports)

    def note(self) -> str | None:
        """Returns what a reader of results must know about the words; None for shipped words."""
        if self.origin == "shipped":
            return None
        # Without the file's folder, because results are shared.
        whose = "made from the labels" if self.origin == "made" else f"of the file {Path(self.source).name}"
        parts = [f"words {whose}"]
        if doubts := len(self.doubts()):
            parts.append(f"with {doubts} of the doubts that `data prompts` prints")
        if self.added:
            parts.append(f"with shipped words for {' and '.join(map(repr, self.added))}")
        return ", ".join(parts)
