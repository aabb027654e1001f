from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator.cli.app import execute
from orchestrator.driver.observer import SweepObserver
from orchestrator.driver.sweep import SweepOptions, SweepOutcome
from orchestrator.planning import plan_file, provenance
from orchestrator.planning.plan_file import read_plan
from orchestrator.search.space_file import SearchSpace
from trainables.errors import DataError

SPACE = """
fixed:
  data.phantom.num_train: 30
  data.phantom.num_val: 12
  data.phantom.num_test: 12
parameters:
  lora.rank: {choice: [2, 4]}
"""


@pytest.fixture
def space(tmp_path: Path, home: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(SPACE)
    return path


@pytest.fixture
def written(space: Path, tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    assert write(space, path) == 0
    return path


def write(space: Path, path: Path, *options: str) -> int:
    return execute(["sweep", str(space), "--plan", "--no-timing", "--out", str(path), *options])


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[SearchSpace, SweepOptions]]:
    seen = []

    def run_sweep(space: SearchSpace, options: SweepOptions, observer: SweepObserver) -> SweepOutcome:
        seen.append((space, options))
        return SweepOutcome(exit_code=0, name="mine")

    monkeypatch.setattr("orchestrator.driver.sweep.run_sweep", run_sweep)
    return seen


def test_a_plan_holds_what_it_stands_on_for_its_user_alone(space: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    assert write(space, path, "--set", "seed=3") == 0
    content = read_plan(path)
    assert content.space["fixed"]["seed"] == 3
    assert content.code_fingerprint == provenance.code_fingerprint()
    assert (content.num_trials, len(content.data), len(content.encoders)) == (16, 1, 1)
    assert content.estimates["memory"]["trial_gb"] > 0.8
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.glob(".plan*")) == []


def test_the_sweep_is_the_planned_one_and_says_so(written: Path, ran: list) -> None:
    assert execute(["sweep", "--from-plan", str(written), "--name", "again"]) == 0
    ((space, options),) = ran
    assert space.to_dict() == read_plan(written).space
    assert (options.name, options.plan_fingerprint) == ("again", read_plan(written).fingerprint)


def test_each_fold_is_a_data_set_of_its_own(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "folds.yaml"
    arms = "\narms:\n  - {name: LoRA, adapt.method: lora}\nrepeat:\n  data.fold: [0, 2]\n"
    fixed = SPACE.partition("parameters")[0].replace("30", "90") + "  data.num_folds: 3\n"
    path.write_text(fixed + arms)
    assert write(path, tmp_path / "plan.json") == 0
    content = read_plan(tmp_path / "plan.json")
    assert [data.config.fold for data in content.data] == [0, 2]


def test_the_same_plan_is_renewed_and_another_one_stands(
    space: Path, written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written.read_text()
    assert write(space, written) == 0
    assert write(space, written, "--trials", "1") == 2
    assert "has another plan (of 'mine', 16 trials)" in capsys.readouterr().err
    assert (
        read_plan(written).fingerprint
        == plan_file.PlanFile.model_validate(
            {k: v for k, v in json.loads(before).items() if k not in ("format", "schema", "sha256")}
        ).fingerprint
    )
    written.write_text("mine\n")
    assert write(space, written) == 2
    assert written.read_text() == "mine\n"


def test_a_folder_that_is_not_there_is_said_before_planning(
    space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write(space, tmp_path / "no" / "plan.json") == 2
    assert "mkdir -p" in capsys.readouterr().err


def test_all_that_drifted_is_listed_and_nothing_starts(
    space: Path,
    written: Path,
    ran: list,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    space.write_text(SPACE.replace("[2, 4]", "[2, 8]"))
    monkeypatch.setattr(provenance, "code_fingerprint", lambda: "0123")
    monkeypatch.setattr(plan_file, "encoder_fingerprint", lambda config: "4567")
    changed = type("Changed", (), {"fingerprint": "89ab"})
    changed.words = changed
    monkeypatch.setattr(plan_file, "load_dataset", lambda config: changed)
    assert execute(["sweep", "--from-plan", str(written)]) == 2
    said = capsys.readouterr().err
    for what in (f"the space in {space}", "the code in trainables/", "the weights of lite0-minilm"):
        assert f"- {what} (" in said
    assert "- the data set phantom (" in said
    assert "- the words for the data set phantom (" in said
    assert "0123 now" in said
    assert ran == []


def test_a_captioner_that_was_exchanged_is_drift(
    space: Path, tmp_path: Path, ran: list, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, path = tmp_path / "blip", tmp_path / "captions.json"
    folder.mkdir()
    captions = ("--set", "data.captions=blip_label", "--set", f"captioner.name={folder}")
    for content in ("one", "another"):
        (folder / "model.safetensors").write_text(content)
        if content == "one":
            assert write(space, path, *captions) == 0
            assert execute(["sweep", "--from-plan", str(path)]) == 0
    assert execute(["sweep", "--from-plan", str(path)]) == 2
    assert f"- the weights of {folder} (" in capsys.readouterr().err
    assert len(ran) == 1


def test_comments_and_a_file_that_is_gone_are_no_drift(space: Path, written: Path, ran: list) -> None:
    space.write_text("# as before\n" + SPACE)
    assert execute(["sweep", "--from-plan", str(written)]) == 0
    space.unlink()
    assert execute(["sweep", "--from-plan", str(written)]) == 0
    assert len(ran) == 2


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) // 2], "the end is missing"),
        (lambda text: b"", "the end is missing"),
        (lambda text: text.replace(b'"num_trials": 16', b'"num_trials": 17'), "checksum does not match"),
        (lambda text: text.replace(b"phantom", b"phan\xffom", 1), "utf-8.*byte 0xff"),
        (lambda text: text.replace(b":", b";", 1), "Expecting .* line 2"),
        (lambda text: b"[1]", "is not a plan"),
        (lambda text: b'{"a": NaN}', "NaN is not valid JSON"),
        (lambda text: b"[" * 100_000 + b"]" * 100_000 + b"}", "not a plan: maximum recursion"),
        (lambda text: text + b" " * plan_file.MAX_BYTES, "is larger than"),
    ],
)
def test_damage_is_named(written: Path, damage, said: str) -> None:
    written.write_bytes(damage(written.read_bytes()))
    with pytest.raises(DataError, match=said):
        read_plan(written)


def test_every_bit_that_flips_is_found_or_changes_nothing(written: Path) -> None:
    whole, content = read_plan(written), written.read_bytes()
    for place in range(0, len(content), 97):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        written.write_bytes(bytes(flipped))
        try:
            found = read_plan(written)
        except DataError:
            continue
        assert found == whole


def test_a_newer_plan_is_not_guessed_at(written: Path) -> None:
    values = json.loads(written.read_text()) | {"schema": 2, "more": 1}
    del values["sha256"]
    written.write_text(json.dumps(values | {"sha256": plan_file._checksum(values)}))
    with pytest.raises(DataError, match=r"a newer version wrote .* reads only schema 1"):
        read_plan(written)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: None])
def test_what_is_no_file_is_no_plan(tmp_path: Path, make) -> None:
    make(tmp_path / "thing")
    with pytest.raises(DataError, match=r"is not a file|no such file"):
        read_plan(tmp_path / "thing")


@pytest.mark.parametrize(
    "option",
    [
        ["demo"],
        ["--set", "seed=1"],
        ["--trials", "2"],
        ["--resume", "a"],
        ["--extend", "1"],
        ["--retry-failed"],
        ["--workers", "2"],
        ["--plan"],
        ["--out", "x"],
        ["--no-timing"],
    ],
)
def test_nothing_that_changes_what_runs_stands_beside_a_plan(
    written: Path, option: list[str], ran: list, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["sweep", "--from-plan", str(written), *option]) == 2
    named = option[0] if option[0].startswith("--") else "SPACE"
    assert f"error: {named}: cannot be combined with --from-plan" in capsys.readouterr().err
    assert ran == []


def test_options_of_a_plan_need_one(capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--out", "x"], ["--no-timing"]):
        assert execute(["sweep", *option]) == 2
        assert ": can be used only with --plan" in capsys.readouterr().err
