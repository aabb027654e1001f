"""`data prompts`: prints and checks the words for the classes of a data set."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import JsonOption, SetOption, err, print_json, print_line
from trainables.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainables.data.records import Dataset
    from trainables.data.words.words import Words
    from trainables.data.words.words_file import ClassWords

# Imports inside functions: other commands start without the modules of data sets.

WriteOption = Annotated[
    Path | None,
    typer.Option("--write", metavar="FILE", help="Write the words to a new YAML file, to edit them."),
]


def prompts(overrides: SetOption = None, write: WriteOption = None, as_json: JsonOption = False) -> int:
    """Print and check the words for the classes: captions for training and prompts for zero-shot scores.

    Exit status: 0 if nothing was found, 1 if a warning was printed, 2 if the words cannot be used.
    """
    from trainables.config.fields import build_trial, read_overrides
    from trainables.data.datasets import load_dataset

    config = build_trial(read_overrides(overrides or []), where="--set")
    dataset = load_dataset(config.data)
    if write is not None:
        _write(write, dataset.words)
        return 0
    sentences = (r.finding_text for r in dataset.records if r.split == "train" and r.finding_text is not None)
    trained = chain(sentences, *dataset.reports.sentences.values())
    warnings = dataset.words.doubts(dict.fromkeys(trained))
    if as_json:
        print_json(_to_dict(dataset, warnings))
    else:
        for line in _lines(dataset):
            print_line(line)
        for warning in warnings:
            print_line(f"warning: {warning}", err, "yellow")
    return 1 if warnings else 0


def _write(path: Path, words: Words) -> None:
    from trainables.data.words.words_file import to_yaml

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(HEADER + to_yaml(words.classes, words.sources))
    except FileExistsError as error:
        raise ConfigError(f"--write {path}: this file exists; choose another name, or delete it") from error
    except OSError as error:
        raise ConfigError(f"--write {path}: cannot be written ({error.strerror})") from error
    print_line(
        f"wrote {path}. Edit the file, then repeat this command with --set data.prompts={path} instead of "
        f"--write. A sweep uses the file with --set data.prompts={path}."
    )


HEADER = """\
# The words for each class of a data set. Say what is visible; text encoders often ignore a negation.
# name: the class in prose. pattern: what templates insert (default: the name). template: one caption.
# findings: captions of training. unseen: prompts that training never uses.
# pairs: a finding and its contrary. published: source -> prompts, or pairs [prompt, contrary].
"""


def _to_dict(dataset: Dataset, warnings: list[str]) -> dict[str, Any]:
    words = dataset.words
    return {
        "dataset": dataset.name,
        "origin": words.origin,
        "source": words.source,
        "fingerprint": words.fingerprint,
        "classes": {name: of.model_dump(mode="json") for name, of in words.classes.items()},
        "sources": dict(words.sources),
        "warnings": warnings,
    }


def _lines(dataset: Dataset) -> Iterator[str]:
    words = dataset.words
    origins = {
        "shipped": f"the shipped file {words.source}.yaml",
        "file": words.source,
        "made": "made from the labels; to write your own, repeat this command with --write FILE.yaml",
    }
    yield f"words for {dataset.name}: {origins[words.origin]}"
    if words.added:
        yield f"not in the file: {', '.join(words.added)}; its words are shipped"
    for label, of in words.classes.items():
        yield ""
        yield from _of_class(label, of)


def _of_class(label: str, of: ClassWords) -> Iterator[str]:
    yield label if label.isprintable() else repr(label)
    yield f"  name: {of.name}"
    yield f"  pattern: {of.pattern}"
    yield f"  template: {of.template}"
    published = {f"published by {source}": prompts for source, prompts in of.published.items()}
    for title, entries in {
        "findings": of.findings,
        "unseen": of.unseen,
        "pairs": of.pairs,
        **published,
    }.items():
        yield f"  {title}:"
        for entry in entries:
            yield f"    {entry}" if isinstance(entry, str) else f"    {entry[0]} | {entry[1]}"
