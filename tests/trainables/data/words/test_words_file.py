"""A words file is read strictly: each mistake is one line that names the file, the class and the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from trainables.data.words.shipped import SHIPPED, read_shipped
from trainables.data.words.words_file import read_words_file, to_yaml
from trainables.errors import ConfigError

CLASS: dict[str, Any] = {
    "name": "broken rib",
    "findings": ["A fractured rib.", "A step in the outline of a rib."],
    "unseen": ["Rib fracture."],
    "pairs": [["A rib is broken.", "Every rib is whole."]],
}


def write(folder: Path, content: Any) -> Path:
    path = folder / "words.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def one(**changes: Any) -> dict[str, Any]:
    """A words file of one class, with these changes; None = without this key."""
    return {"classes": {"Rib": {k: v for k, v in (CLASS | changes).items() if v is not None}}}


def test_pattern_and_template_follow_from_the_name(tmp_path: Path) -> None:
    path = write(tmp_path, one())
    words = read_words_file(path, shown=path).classes["Rib"]
    assert (words.pattern, words.template) == (
        "broken rib",
        "A chest X-ray with the pattern of broken rib.",
    )
    path = write(tmp_path, one(pattern="a step"))
    assert read_words_file(path, shown=path).classes["Rib"].template.endswith("pattern of a step.")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (one(name=None), "classes.Rib.name: this key is missing"),
        (one(finding=["A."]), "classes.Rib.finding: no such key; did you mean 'findings'?"),
        (one(findings="A."), 'classes.Rib.findings: "A." must be a list'),
        (one(findings=[]), "classes.Rib.findings: the list is empty"),
        (one(findings=["A.", 3]), "classes.Rib.findings[1]: 3 must be text"),
        (
            one(findings=["A.", {"Film": "a rib."}]),
            "classes.Rib.findings[1]: this is not a sentence; put quotes",
        ),
        (one(findings=["A.", " "]), "classes.Rib.findings[1]: is empty"),
        (one(findings=["A.", "A."]), "classes.Rib.findings: 'A.' is written twice"),
        (one(findings=["A\x07."]), "classes.Rib.findings[0]: 'A\\x07.' contains a character"),
        (one(unseen=["x" * 1001]), "classes.Rib.unseen[0]: has 1,001 characters"),
        (one(pairs=[["A."]]), "classes.Rib.pairs[0]: write a list of two sentences"),
        (one(pairs=["A."]), "classes.Rib.pairs[0]: write a list of two sentences"),
        (one(published={"CheXzero": [["a", "b", "c"]]}), "classes.Rib.published.CheXzero[0]: write a list"),
        (one(published={"CheXzero": ["a", ["a", "b"]]}), "published.CheXzero: some prompts are sentences"),
        (one(also=["Rib"]), "classes: the label 'Rib' occurs twice"),
        ({"classes": {}}, "classes: there is no class"),
        ({"class": {}}, "class: no such key; did you mean 'classes'?"),
        ("[1, 2]", "write a mapping with the key `classes`"),
        ("classes: {0: {}}", "line 1: a key must be text"),
        ("classes: [", "line 1"),
    ],
)
def test_a_mistake_is_one_line_with_file_class_and_field(tmp_path: Path, content: Any, said: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        read_words_file(path, shown=path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert said in message
    assert "\n" not in message
    assert "pydantic" not in message


def test_a_missing_file_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist; .*data prompts .* --write FILE.yaml"):
        read_words_file(tmp_path / "none.yaml", shown=tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is not a file"):
        read_words_file(tmp_path, shown=tmp_path)


@pytest.mark.parametrize("name", SHIPPED)
def test_written_words_are_read_back_equal(tmp_path: Path, name: str) -> None:
    content = read_shipped(name)
    path = write(tmp_path, to_yaml(content.classes, content.sources))
    assert read_words_file(path, shown=path) == content
