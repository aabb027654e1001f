"""Finds words that would mislead: prompts that training saw, negations, and sentences of two classes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain

from trainables.data.words.made import names_nothing
from trainables.data.words.words_file import ClassWords

SUCCESSIVE = 5
"""A prompt with this many successive words of a training text counts as seen."""
MAX_WORDS = 50
"""A longer sentence may exceed the 77 tokens that CLIP reads."""
_NEGATION = re.compile(
    r"\b(no|not|non|never|neither|nor|none|without|absen(t|ce)|lack(s|ing)?|negative|free of|ruled out)\b",
    re.IGNORECASE,
)


def check_words(classes: Mapping[str, ClassWords], *, are_made: bool, reports: Iterable[str]) -> list[str]:
    """Returns one line for each doubt about the words; empty if there is none.

    Unseen prompts must have no sentence and no five successive words in common with the training texts: the
    captions of every kind, for every class, and `reports`. In words made from labels (`are_made`), a label
    counts as one word, because it may have five words itself. Published prompts are not checked.
    """
    nameless = [
        f"'{label}': this label names no finding, so its prompts say nothing"
        for label in (classes if are_made else ())
        if names_nothing(label)
    ]
    names = [of.name for of in classes.values()] if are_made else []
    doubts = _seen(classes, reports, names), _negations(classes), _shared(classes), _long(classes)
    return [*nameless, *chain(*doubts)]


def negates(sentence: str) -> bool:
    """Returns whether a sentence negates something."""
    return _NEGATION.search(sentence) is not None


def _seen(classes: Mapping[str, ClassWords], reports: Iterable[str], names: Collection[str]) -> Iterator[str]:
    trained: dict[tuple[str, ...], str] = {}
    for of in classes.values():
        for caption in (of.template, *of.findings, *of.templates):
            trained |= dict.fromkeys(_parts(caption, names), caption)
    for report in reports:
        trained |= dict.fromkeys(_parts(report, names), report)
    for label, of in classes.items():
        for prompt in of.unseen:
            seen = next((part for part in _parts(prompt, names) if part in trained), None)
            if seen is not None:
                yield (
                    f"'{label}', unseen: {prompt!r} shares the words '{' '.join(seen)}' with the training "
                    f"text {trained[seen]!r}; reword one of them"
                )


def _parts(sentence: str, names: Iterable[str]) -> list[tuple[str, ...]]:
    """Returns the whole sentence and its runs of five words, where each of `names` is one word."""
    for name in sorted(names, key=len, reverse=True):
        sentence = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", " label ", sentence, flags=re.IGNORECASE)
    tokens = tuple(re.findall(r"\w+", sentence.lower()))
    runs = (tokens[i : i + SUCCESSIVE] for i in range(len(tokens) - SUCCESSIVE + 1))
    return [tokens, *runs]


def _negations(classes: Mapping[str, ClassWords]) -> Iterator[str]:
    ignored = "text encoders often ignore a negation"
    for label, of in classes.items():
        findings = [finding for finding, _ in of.pairs]
        said = {"template": [of.template], "findings": of.findings, "unseen": of.unseen, "pairs": findings}
        said = {place: [s for s in sentences if negates(_rest(s, of))] for place, sentences in said.items()}
        said |= {"name": [of.name] if negates(of.name) else []}
        said |= {"pattern": [of.pattern] if of.pattern != of.name and negates(of.pattern) else []}
        for place, negating in said.items():
            if negating:
                more = f" and {len(negating) - 1} more" if len(negating) > 1 else ""
                yield f"'{label}', {place}: {negating[0]!r}{more} negates, and {ignored}; say what is visible"
        for finding, contrary in of.pairs:
            if negates(contrary) and not negates(finding):
                yield (
                    f"'{label}', pairs: the contrary {contrary!r} negates. As {ignored}, it can mean the "
                    f"same as {finding!r}, or reverse the score; say what is visible instead"
                )


def _rest(sentence: str, of: ClassWords) -> str:
    """Returns a sentence without the name and pattern of its class, which are checked only once."""
    for part in (of.pattern, of.name):
        sentence = re.sub(re.escape(part), " ", sentence, flags=re.IGNORECASE)
    return sentence


def _shared(classes: Mapping[str, ClassWords]) -> Iterator[str]:
    owners: dict[str, list[str]] = {}
    for label, of in classes.items():
        said = (of.name, of.template, *of.findings, *of.unseen, *(finding for finding, _ in of.pairs))
        for sentence in dict.fromkeys(sentence.casefold() for sentence in said):
            owners.setdefault(sentence, []).append(label)
    shared = {sentence: labels for sentence, labels in owners.items() if len(labels) > 1}
    for labels in dict.fromkeys(tuple(labels) for labels in shared.values()):
        same = [sentence for sentence, owned in shared.items() if tuple(owned) == labels]
        more = f" and {len(same) - 1} more" if len(same) > 1 else ""
        yield f"{' and '.join(map(repr, labels))}: both say {same[0]!r}{more}; no prompt can tell them apart"


def _long(classes: Mapping[str, ClassWords]) -> Iterator[str]:
    for label, of in classes.items():
        for sentence in (
            of.template,
            *of.findings,
            *of.unseen,
            *(part for pair in of.pairs for part in pair),
        ):
            if (number := len(sentence.split())) > MAX_WORDS:
                yield f"'{label}': {sentence[:40]!r}… has {number} words, and CLIP reads only 77 tokens"
