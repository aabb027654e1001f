"""The content of a words file: what an encoder is told about each class."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeAlias, cast

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from trainables.config import Config
from trainables.config.fields import explain, nearest_or_all
from trainables.data.identifiers import one_line
from trainables.data.words.templates import CLASS_TEMPLATE, TEMPLATES, fill
from trainables.errors import ConfigError
from trainables.plain_yaml import read_yaml
from trainables.shell import command

MAX_CHARACTERS = 1_000
WRITE = "data prompts --set data.dataset=NAME --set data.root=FOLDER --write FILE.yaml"
"""The command that writes a file to begin with."""


def _quoted(value: Any) -> Any:
    if isinstance(value, dict):  # YAML reads an unquoted sentence such as "Impression: normal." as a mapping
        raise ValueError('this is not a sentence; put quotes around a sentence with ": "')
    return value


def _sentence(text: str) -> str:
    words = " ".join(text.split())
    if not words:
        raise ValueError("is empty; write a sentence")
    if not words.isprintable():
        raise ValueError(f"{words!r} contains a character that cannot be printed; remove it")
    if len(words) > MAX_CHARACTERS:
        raise ValueError(f"has {len(words):,} characters, and {MAX_CHARACTERS:,} are allowed; shorten it")
    return words


def _pair(value: Any) -> tuple[str, str]:
    parts = cast("list[Any]", value) if isinstance(value, list | tuple) else []
    match parts:
        case [str(finding), str(contrary)]:
            return _sentence(finding), _sentence(contrary)
        case _:
            raise ValueError("write a list of two sentences, [finding, contrary]")


def _prompt(value: Any) -> str | tuple[str, str]:
    return _sentence(value) if isinstance(value, str) else _pair(_quoted(value))


def _not_empty(sentences: tuple[Any, ...]) -> tuple[Any, ...]:
    if not sentences:
        raise ValueError("the list is empty; write at least one entry")
    for position, sentence in enumerate(sentences):
        if sentence in sentences[:position]:
            raise ValueError(f"{sentence!r} is written twice; remove one of them")
    return sentences


Sentence: TypeAlias = Annotated[str, BeforeValidator(_quoted), AfterValidator(_sentence)]
Pair: TypeAlias = Annotated[tuple[str, str], BeforeValidator(_pair)]
Prompt: TypeAlias = Annotated[str | tuple[str, str], BeforeValidator(_prompt)]
Sentences: TypeAlias = Annotated[tuple[Sentence, ...], AfterValidator(_not_empty)]


class ClassWords(Config):
    """The words for one class."""

    name: Sentence = Field(description="The class in prose, such as `community-acquired pneumonia`.")
    pattern: Sentence = Field(
        default_factory=lambda data: data.get("name", ""),
        description="What an image of the class shows; templates insert it. Default: the name.",
    )
    template: Sentence = Field(
        default_factory=lambda data: CLASS_TEMPLATE.format(data.get("pattern", "")),
        description="The one caption of kind `class_template`.",
    )
    findings: Sentences = Field(description="Captions of kind `finding`, and prompts of family `training`.")
    unseen: Sentences = Field(description="Prompts that training never uses.")
    pairs: Annotated[tuple[Pair, ...], AfterValidator(_not_empty)] = Field(
        description="Pairs of a finding and its contrary: prompts of family `pair`."
    )
    published: dict[str, Annotated[tuple[Prompt, ...], AfterValidator(_not_empty)]] = Field(
        default={},
        description="Source → prompts of family `published`: sentences, or pairs [prompt, contrary].",
    )
    also: tuple[Sentence, ...] = Field(
        default=(), description="Other labels of the same class in other data sets."
    )

    @property
    def templates(self) -> tuple[str, ...]:
        """Every template, filled with the pattern of the class."""
        return _templates(self.pattern)


@lru_cache(maxsize=256)  # read for every caption; a cached property would stay the same after `model_copy`
def _templates(pattern: str) -> tuple[str, ...]:
    return fill(TEMPLATES, pattern)


class WordsFile(Config):
    """The words for several classes."""

    sources: dict[str, Sentence] = Field(
        default={}, description="Source of published prompts → the paper, and the file with the prompts."
    )
    classes: dict[str, ClassWords] = Field(description="Label in the data set → words.")

    @model_validator(mode="after")
    def _each_label_once(self) -> WordsFile:
        if not self.classes:
            raise ValueError("classes: there is no class; write the words of each class below its label")
        labels = [label for name, words in self.classes.items() for label in (name, *words.also)]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"classes: the label '{label}' occurs twice; remove one of them")
        return self

    @model_validator(mode="after")
    def _a_source_has_pairs_or_sentences(self) -> WordsFile:
        forms: dict[str, set[bool]] = {}
        for words in self.classes.values():
            for source, prompts in words.published.items():
                forms.setdefault(source, set()).update(isinstance(prompt, str) for prompt in prompts)
        for source, kinds in forms.items():
            if len(kinds) > 1:
                raise ValueError(
                    f"published.{source}: some prompts are sentences and some are pairs; write all alike"
                )
        return self

    def by_label(self) -> dict[str, ClassWords]:
        """Returns the words by every label, including the labels under `also`, as a data set has them."""
        return {
            one_line(label): words for name, words in self.classes.items() for label in (name, *words.also)
        }


def read_words_file(path: Path, *, shown: Path) -> WordsFile:
    """Returns the content of a words file.

    Args:
        path: the file on this machine.
        shown: the name of the file in messages.

    Raises:
        ConfigError: the file is missing or is no words file. The message names file, class and field.
    """
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise ConfigError(f"data.prompts: {shown} {problem}; write a file to begin with: " + command(WRITE))
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{shown}: write a mapping with the key `classes`, and the classes below it")
    try:
        return WordsFile.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{shown}: {_explain(error)}") from error


def to_yaml(classes: Mapping[str, ClassWords], sources: Mapping[str, str]) -> str:
    """Returns the text of a words file with these classes."""
    used = {source for words in classes.values() for source in words.published}
    content = WordsFile(
        sources={source: about for source, about in sources.items() if source in used},
        classes=dict(classes),
    ).model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)


def _explain(error: ValidationError) -> str:
    """Returns the first problem as one line. An unknown key comes first, as it is often a misspelt one."""
    problems = error.errors(include_url=False)
    problem = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    if problem["type"] == "extra_forbidden":
        *outer, key = map(str, problem["loc"])
        model = ClassWords if outer else WordsFile
        return f"{'.'.join([*outer, key])}: no such key{nearest_or_all(key, model.model_fields)}"
    if problem["type"] == "missing":
        return f"{'.'.join(map(str, problem['loc']))}: this key is missing"
    return explain(error).removeprefix(": ")
