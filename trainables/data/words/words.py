"""The words of a data set, one entry for each class, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from trainables.artifacts import fingerprint
from trainables.data.words.words_file import ClassWords
from trainables.errors import ConfigError

Origin = Literal["shipped", "file", "made"]


@dataclass(frozen=True)
class Words:
    """The words for the classes of a data set, in the order of the classes.

    Attributes:
        classes: label → words.
        origin: `shipped` with the project, the user's `file`, or `made` from the labels.
        source: the name of the shipped file, or the path of the user's file; empty for made words.
        sources: source of published prompts → paper and file.
    """

    classes: Mapping[str, ClassWords] = field(default_factory=dict[str, ClassWords])
    origin: Origin = "made"
    source: str = ""
    sources: Mapping[str, str] = field(default_factory=dict[str, str])

    def of(self, label: str) -> ClassWords:
        """Returns the words for a class."""
        if label not in self.classes:
            raise ConfigError(
                f"class '{label}' has no captions and prompts (known: {', '.join(self.classes) or 'none'})"
            )
        return self.classes[label]

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the words. It does not depend on their origin."""
        said = {name: words.model_dump(mode="json", exclude={"also"}) for name, words in self.classes.items()}
        return fingerprint("words", said)

    def note(self) -> str | None:
        """Returns what a reader of results must know about the words; None for shipped words."""
        match self.origin:
            case "shipped":
                return None
            case "file":
                return f"words of the file {Path(self.source).name}"  # without its folder: results are shared
            case "made":
                return "words made from the labels"
