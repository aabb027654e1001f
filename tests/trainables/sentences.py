"""Words of sentences, compared by code of the tests: independent of what it checks."""

from __future__ import annotations

import re
from collections.abc import Iterable

from trainables.data.words.words_file import ClassWords


def tokens(sentence: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z0-9]+", sentence.lower()))


def five_grams(sentence: str) -> set[tuple[str, ...]]:
    words = tokens(sentence)
    return {words[i : i + 5] for i in range(len(words) - 4)}


def training_captions(classes: Iterable[ClassWords]) -> list[str]:
    """Every caption that some kind of caption can give, without reports and descriptions."""
    return [caption for of in classes for caption in (of.template, *of.findings, *of.templates)]


def overlaps(unseen: Iterable[str], trained: Iterable[str]) -> list[str]:
    """The unseen prompts with a sentence, or five successive words, of a caption."""
    captions = list(trained)
    sentences, grams = set(map(tokens, captions)), set().union(*map(five_grams, captions))
    return [prompt for prompt in unseen if tokens(prompt) in sentences or five_grams(prompt) & grams]
