from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
import types
from pathlib import Path

import jsonschema
import pytest
from printed import without_progress

from orchestrator.cli.app import execute
from orchestrator.cluster.environment import LOCAL, QUIET, SECURE, secure_environment
from orchestrator.driver.observer import SweepObserver
from orchestrator.driver.sweep import SweepOptions, SweepOutcome
from orchestrator.search.space_file import SearchSpace
from orchestrator.storage.events import SweepStarted, TrialFinished, TrialPlaced
from orchestrator.storage.ledger import Ledger, read_ledger
from orchestrator.storage.paths import sweep_folder
from trainables import TRAINABLES
from trainables.config import TrialConfig
from trainables.context import LocalContext
from trainables.plain_yaml import read_yaml

PROJECT = Path(__file__).resolve().parents[3]
SPACES = PROJECT / "search_spaces"
SMALL = [
    "--set",
    "data.phantom.num_train=30",
    "--set",
    "data.phantom.num_val=12",
    "--set",
    "data.phantom.num_test=12",
]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=PROJECT, capture_output=True, text=True, check=False
    )


def test_help_answers_in_under_a_second() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = python("-m", "orchestrator", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert answer.returncode == 0
    names = "sweep submit jobs run leaderboard data ui sync doctor schema"
    for command in names.split():
        assert command in answer.stdout
    # Processor time, which other users of this machine do not stretch; alone on it the clock says the same.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_the_command_line_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'mlflow', 'numpy', 'transformers', 'sklearn', 'optuna'}"
    answer = python("-c", f"import sys, orchestrator.cli.app; print(sorted({heavy} & set(sys.modules)))")
    assert answer.stdout == "[]\n"


def test_environment_is_set_before_a_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SECURE, *QUIET):
        monkeypatch.setenv(name, "theirs")
    secure_environment()
    assert {name: os.environ[name] for name in SECURE} == SECURE
    assert {os.environ[name] for name in QUIET} == {"theirs"}


def test_variables_are_ones_that_the_libraries_read() -> None:
    names = ("ray", "mlflow", "huggingface_hub", "torch")
    ray, mlflow, hub, torch = (Path(importlib.util.find_spec(name).origin).parent for name in names)
    sources = {
        "RAY_AUTH_MODE": ray / "_private/authentication/authentication_token_setup.py",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": ray / "_private/ray_constants.py",
        "RAY_USAGE_STATS_ENABLED": ray / "_common/usage/usage_constants.py",
        "RAY_CHDIR_TO_TRIAL_DIR": ray / "train/constants.py",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": ray / "tune/constants.py",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": mlflow / "environment_variables.py",
        "MLFLOW_DISABLE_TELEMETRY": mlflow / "environment_variables.py",
        "HF_HUB_DISABLE_TELEMETRY": hub / "constants.py",
        "HF_HUB_DISABLE_PROGRESS_BARS": hub / "constants.py",
        "PYTORCH_ALLOC_CONF": torch / "cuda/memory.py",
        "HF_HUB_VERBOSITY": hub / "utils/logging.py",
    }
    assert {*SECURE, *LOCAL, *QUIET} - {"TOKENIZERS_PARALLELISM"} == set(sources)  # the last is read in Rust
    for name, source in sources.items():
        assert name in source.read_text()


def test_plan_is_printed_and_nothing_starts(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["sweep", "demo", "--plan", "--no-timing", "--json", *SMALL]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["num_trials"], plan["num_baselines"]) == (4, 1)
    assert (
        execute(["sweep", str(SPACES / "demo.yaml"), "--plan", "--no-timing", "--trials", "2", *SMALL]) == 0
    )
    printed = capsys.readouterr().out
    assert "2 + 1 baseline" in printed
    assert "Nothing was started." in printed
    assert not home.exists()


def test_number_of_workers_is_part_of_the_plan(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["sweep", "--plan", "--no-timing", "--json", "--workers", "2", *SMALL]) in (
        0,
        2,
    )  # 2: a machine of one core
    answer = capsys.readouterr()
    assert (
        "--workers 2" in answer.err or json.loads(answer.out)["space"]["fixed"]["execution.num_workers"] == 2
    )


def test_committed_schema_is_the_generated_one_and_admits_every_space(tmp_path: Path) -> None:
    assert execute(["schema", "--output", str(tmp_path / "schema.json")]) == 0
    generated = (tmp_path / "schema.json").read_text()
    assert (SPACES / "search_space.schema.json").read_text() == generated, "run `make schema`"
    jsonschema.Draft202012Validator.check_schema(json.loads(generated))
    validator = jsonschema.Draft202012Validator(json.loads(generated))
    for path in SPACES.glob("*.yaml"):
        assert [error.message for error in validator.iter_errors(read_yaml(path))] == []
        assert path.read_text().splitlines()[0] == "# yaml-language-server: $schema=search_space.schema.json"
    assert list(validator.iter_errors({"fixed": {"lora.rnk": 4}}))
    assert list(validator.iter_errors({"parameters": {"lora.rank": {"choice": [4], "int": [1, 2]}}}))


def test_run_leaves_its_metrics_and_shows_them(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def toy(config: TrialConfig, context: LocalContext) -> dict[str, float]:
        context.report({"train/epoch": 1, "train/loss": 2.5})
        return {
            "val/toy/accuracy": config.lora.rank / 10,
            "val/toy/accuracy_low": 0.25,
            "val/toy/accuracy_high": 1,
        }

    monkeypatch.setitem(sys.modules, "toy", types.SimpleNamespace(toy=toy))
    monkeypatch.setitem(TRAINABLES, "toy", "toy:toy")
    assert execute(["run", "toy", "--set", "lora.rank=4", *SMALL]) == 0
    printed = capsys.readouterr()
    assert "0.4000  [0.250 1.000]    val/toy/accuracy\n" in printed.out
    assert without_progress(printed.err) == "epoch 1  train/loss 2.5000\n"
    (kept,) = home.glob("runs/*/metrics.json")
    assert json.loads(kept.read_text())["val/toy/accuracy"] == 0.4


def test_sweep_ends_with_the_leaderboard_and_the_next_commands(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_sweep(space: SearchSpace, options: SweepOptions, observer: SweepObserver) -> SweepOutcome:
        folder = sweep_folder(options.name or "")
        config = space.default_config()
        with Ledger(folder) as ledger:
            ledger.append(SweepStarted(name=folder.name, objective=space.objective, space=space.to_dict()))
            placed = {"trial_key": "k", "arm_key": "a", "name": "toy", "is_baseline": False, "attempt": 1}
            ledger.append(TrialPlaced(config=config, **placed))
            done = {"trial_key": "k", "attempt": 1, "seconds": 1.0, "workdir": "", "results": {}}
            metrics = {space.objective: 0.875}
            ledger.append(TrialFinished(metrics=metrics, stopped_early=False, **done))
        observer.on_started(folder, read_ledger(folder))
        return SweepOutcome(exit_code=3, name=folder.name)

    monkeypatch.setattr("orchestrator.driver.sweep.run_sweep", run_sweep)
    monkeypatch.setattr("orchestrator.cli.live.Replayer", NoReplay)
    assert execute(["sweep", "--name", "mine", *SMALL]) == 3
    printed = capsys.readouterr().out
    assert ".875" in printed
    assert "python -m orchestrator ui mine" in printed
    assert execute(["leaderboard", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["objective"]["value"] == 0.875


class NoReplay:
    reason, notices = "", ()

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder = folder

    def start(self) -> None: ...

    def finish(self) -> bool:
        return True


@pytest.mark.faults
@pytest.mark.slow
def test_run_with_two_workers_gives_the_losses_of_one(tmp_path: Path) -> None:
    losses = []
    for workers in ("1", "2"):
        tiny = ["encoder.image_size=64", "num_epochs=1", "global_batch_size=8", "data.num_views=1"]
        options = [word for text in tiny for word in ("--set", text)]
        answer = subprocess.run(
            [
                sys.executable,
                "-m",
                "orchestrator",
                "run",
                "finetune",
                "--json",
                "--workers",
                workers,
                *SMALL,
                *options,
            ],
            cwd=PROJECT,
            env=os.environ
            | {"CLIP_ORCHESTRATOR_HOME": str(tmp_path / workers)},  # a home of its own: nothing is reused
            capture_output=True,
            text=True,
            check=True,
        )
        losses.append(json.loads(answer.stdout)["metrics"]["train/loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)  # of four steps in float32


def test_leaderboard_and_sync_say_that_there_is_no_sweep(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("leaderboard", "sync"):
        assert execute([command]) == 2
        assert "no sweep in" in capsys.readouterr().err


def test_doctor_names_what_to_mend(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the discard port: nobody answers
    assert execute(["doctor", "--json"]) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert checks["python"]["ok"]
    assert checks["home"]["found"] == str(home)
    assert "unset MLFLOW_TRACKING_URI" in checks["mlflow store"]["fix"]


def test_interruption_ends_with_130_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.cli.sweep.find_space", interrupt)
    assert execute(["sweep"]) == 130
    assert without_progress(capsys.readouterr().err) == "interrupted\n"
