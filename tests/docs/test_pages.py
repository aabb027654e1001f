"""What the pages say exists: files, links, commands, options, settings, figures."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from orchestrator.cli.app import app
from orchestrator.search.metric_keys import SYSTEMS
from orchestrator.search.space_file import BLOCKS, OVERRIDABLE
from orchestrator.storage.events import EVENTS
from orchestrator.worker.trial_spec import Cause
from trainables.config.fields import FIELDS
from trainables.data.datasets import DATASETS
from trainables.scoring.metric_names import COSTS, METRICS

PROJECT = Path(__file__).resolve().parents[2]
DOCS = PROJECT / "docs"
GENERATED = DOCS / "reference" / "generated"
PAST = [DOCS / "log.md", *(DOCS / "decisions").glob("*.md"), PROJECT / "CHANGELOG.md"]
"""Pages that speak of earlier states of the code."""
PAGES = sorted(path for path in [*PROJECT.glob("*.md"), *DOCS.rglob("*.md")] if GENERATED not in path.parents)
CURRENT = [page for page in PAGES if page not in PAST]
COMMAND = re.compile(r"python -m orchestrator([^`\n|#]*)")


def name(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("generated")
    load(DOCS / "generate.py").write_pages(folder)
    return {path.stem: path.read_text() for path in folder.iterdir()}


def test_the_readme_is_short() -> None:
    assert len((PROJECT / "README.md").read_text().splitlines()) <= 120


def test_every_command_has_its_help(generated: dict[str, str]) -> None:
    for path, command in walk(typer.main.get_command(app)):
        assert not path or f"# `{' '.join(['python -m orchestrator', *path])}`" in generated["commands"]
        for option in options_of(command):
            assert f"`{option}" in generated["commands"]


def test_every_setting_has_a_row(generated: dict[str, str]) -> None:
    for key in [*FIELDS, *(word for word in OVERRIDABLE if "." in word)]:
        assert f"| `{key}` |" in generated["settings"], key


def test_every_encoder_data_set_and_module_is_listed(generated: dict[str, str]) -> None:
    assert "## lite0-minilm\n" in generated["encoders"]
    for data_set in DATASETS:
        assert f"## {data_set}\n" in generated["data_sets"]
    for package in ("orchestrator", "trainables"):
        for module in (PROJECT / package).rglob("*.py"):
            if module.name != "__init__.py":
                assert f"| `{name(module)}` | " in generated["code"]


def test_every_field_of_every_event_is_listed(generated: dict[str, str]) -> None:
    for event, section in zip(EVENTS.items(), generated["events"].split("\n## ")[1:], strict=True):
        assert section.startswith(f"`{event[0]}`")
        for field in dataclasses.fields(event[1]):
            assert f"| `{field.name}` |" in section, (event[0], field.name)


def test_every_metric_cause_and_key_of_a_space_is_explained() -> None:
    metrics = (DOCS / "reference" / "metrics.md").read_text()
    for word in [*METRICS, *COSTS, *(s for s in SYSTEMS if not s.startswith("zero_shot"))]:
        assert f"`{word}`" in metrics, word
    for family in (s.removeprefix("zero_shot_") for s in SYSTEMS if s.startswith("zero_shot")):
        assert f"`{family}`" in metrics, family
    ledger = (DOCS / "reference" / "ledger.md").read_text()
    for cause in Cause.__args__:
        assert f"`{cause}`" in ledger, cause
    space = (DOCS / "reference" / "search-space.md").read_text()
    for key in BLOCKS:
        assert f"| `{key}` |" in space, key


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path = (page.parent / target.partition("#")[0]).resolve()
        is_local = not target.startswith(("http://", "https://", "#"))
        assert not is_local or path.exists() or GENERATED in path.parents, target


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_named_files_exist(page: Path) -> None:
    roots = "orchestrator|trainables|search_spaces|benchmarks|tests|docs"
    for place in re.findall(rf"`((?:{roots})/[\w./*-]*)", page.read_text()):
        assert list(PROJECT.glob(place.rstrip("/"))), place


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_shown_commands_exist(page: Path) -> None:
    for text in COMMAND.findall(page.read_text().replace("\\\n", " ")):
        check_command(shlex.split(text.replace("…", " ")))


def test_a_command_that_does_not_exist_is_noticed() -> None:
    for wrong in ("sweeep lora", "sweep lora --plann", "sweep --set lora.rnk=8", "models shw NAME"):
        with pytest.raises(AssertionError):
            check_command(wrong.split())


def test_the_picture_shows_the_stored_result() -> None:
    picture = load(PROJECT / "benchmarks" / "board_picture.py")
    board = json.loads(picture.newest_result().read_text())["leaderboard"]
    drawn = [(DOCS / "board.svg").read_text(), picture.draw(picture.newest_result())]
    opened = [row for row in board["rows"] if row["test_accuracy"]] + board["controls"]
    assert len(opened) > len(board["controls"])
    for row in opened:
        accuracy = row["test_accuracy"]
        text = f"{accuracy['value']:.3f} [{accuracy['low']:.2f} {accuracy['high']:.2f}]"
        for shown in drawn:
            assert text.replace("0.", ".") in shown.replace("&#160;", " ")


def test_the_readme_quotes_the_stored_results() -> None:
    text = " ".join((PROJECT / "README.md").read_text().split())
    demo, real = stored("demo"), stored("xray3_cv")
    best = next(row for row in demo["rows"] if row["test_accuracy"])
    assert f"{decimals(best['over_frozen'])} above the strongest frozen probe" in text
    thumbnail = next(row for row in demo["controls"] if row["system"] == "control_thumbnail")
    assert f"reaches only {thumbnail['test_accuracy']['value']:.3f}".replace("0.", ".") in text
    adapted = next(row for row in real["rows"] if "clip" in row["name"] and row["system"] == "probe_joint")
    assert f"LoRA adds {decimals(adapted['over_frozen'])}" in text


def stored(subject: str) -> dict[str, Any]:
    newest = sorted((PROJECT / "benchmarks" / "results").glob(f"{subject}_2-core-x86_64_*.json"))[-1]
    return json.loads(newest.read_text())["leaderboard"]


def decimals(estimate: dict[str, float]) -> str:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    return f"{value:.3f} [{low:.2f}, {high:.2f}]".replace("0.", ".")


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields every command below a group, with the words that lead to it."""
    yield path, command
    for word, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, (*path, word))


def options_of(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts if option.startswith("--")}


def check_command(words: list[str]) -> None:
    """Asserts that a command line names commands, options and settings that exist."""
    root = typer.main.get_command(app)
    command: Any = root
    rest = list(words)
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        if rest[0].isupper():  # a placeholder
            return
        assert rest[0] in command.commands, rest[0]
        command = command.commands[rest.pop(0)]
    known = options_of(command) | {"--help", "--version"}
    if command.name == "submit":  # takes the options of `sweep` too
        known |= options_of(root.commands["sweep"])
    for position, word in enumerate(rest):
        if word.startswith("--"):
            assert word in known, word
        if word == "--set":
            key = rest[position + 1].partition("=")[0]
            assert key.isupper() or key in FIELDS or key in OVERRIDABLE, key
