"""`data prompts`: the words of a data set, doubts about them, and a file to begin with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.app import execute
from trainables.data import datasets
from trainables.data.words import choose

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def own(tmp_path: Path, home: Path) -> Path:
    """A words file that `data prompts --write` wrote for the phantom."""
    choose._read.cache_clear(), datasets._load.cache_clear()
    path = tmp_path / "own.yaml"
    assert execute(["data", "prompts", "--write", str(path)]) == 0
    return path


def prompts(path: Path, *options: str) -> int:
    choose._read.cache_clear(), datasets._load.cache_clear()
    return execute(["data", "prompts", "--set", f"data.prompts={path}", *options])


def test_the_shipped_words_are_printed(home: Path, capsys: Captured) -> None:
    assert execute(["data", "prompts"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("words for phantom: the shipped file covid_qu_ex.yaml\n")
    assert "    Healthy lungs. | Diseased lungs.\n" in printed
    assert "  published by MedCLIP:\n    patchy ground glass opacity in peripheral\n" in printed


def test_a_written_file_has_the_same_words_and_is_never_replaced(own: Path, capsys: Captured) -> None:
    assert prompts(own, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["origin"], found["source"], found["warnings"]) == ("file", str(own), [])
    assert execute(["data", "prompts", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] == found["fingerprint"]
    before = own.read_bytes()
    assert execute(["data", "prompts", "--write", str(own)]) == 2
    assert "this file exists" in capsys.readouterr().err
    assert own.read_bytes() == before


def test_doubts_are_printed_with_exit_status_1(own: Path, capsys: Captured) -> None:
    own.write_text(own.read_text().replace("Diseased lungs.", "No healthy lungs."))
    assert prompts(own) == 1
    assert "warning: 'Normal', pairs: the contrary 'No healthy lungs.' negates" in capsys.readouterr().err
    assert prompts(own, "--json") == 1
    assert len(json.loads(capsys.readouterr().out)["warnings"]) == 1


def test_findings_of_train_images_count_as_training_texts(own: Path, capsys: Captured) -> None:
    report, prompt = "Clear lungs, normal heart.", "Unremarkable chest film of a healthy adult."
    text = own.read_text()
    own.write_text(text.replace(prompt, f"{report.rstrip('.')}, wide chest."))  # four words in common
    assert prompts(own) == 0
    own.write_text(text.replace(prompt, report))
    assert prompts(own) == 1
    assert f"with the training text {report!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "\n    findings:",
            "\n    finding:",
            "classes.COVID-19.finding: no such key; did you mean 'findings'?",
        ),
        ("  COVID-19:", "  covid-19:", "has no words for 'COVID-19' (the file has 'covid-19')"),
        ("classes:", "classes: [", "own.yaml, line "),
    ],
)
def test_words_that_cannot_be_used_are_one_message(
    own: Path, capsys: Captured, old: str, new: str, said: str
) -> None:
    capsys.readouterr()
    own.write_text(own.read_text().replace(old, new, 1))
    for command in (prompts, lambda path: execute(["sweep", "--plan", "--set", f"data.prompts={path}"])):
        assert command(own) == 2
        message = capsys.readouterr().err
        assert said in message
        assert "Traceback" not in message


def test_published_prompts_that_lack_a_class_are_refused_by_a_plan(home: Path, capsys: Captured) -> None:
    families = "zero_shot.prompts=[training, published]"
    assert execute(["sweep", "--plan", "--no-timing", "--set", families]) == 2
    assert "MedCLIP has none for 'Non-COVID', 'Normal'" in capsys.readouterr().err
