"""`sweep --resume`, `status` and `stop` on the command line, without a Ray."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from printed import without_progress

from orchestrator.cli.app import execute
from orchestrator.cli.sweep import next_commands
from orchestrator.driver.executor import describe
from orchestrator.driver.observer import SweepObserver
from orchestrator.driver.resume import check_drift
from orchestrator.driver.signals import stop_requests
from orchestrator.driver.sweep import SweepOptions, run_sweep
from orchestrator.planning import provenance
from orchestrator.planning.identity import identify
from orchestrator.search.space_file import read_space
from orchestrator.storage.driver_lock import running_driver
from orchestrator.storage.events import TrialFailed, TrialFinished, TrialPlaced, TrialReported
from orchestrator.storage.lease import Holder
from orchestrator.storage.ledger import Ledger, read_ledger
from orchestrator.storage.paths import sweep_folder
from orchestrator.storage.store import Storage, open_storage
from trainables.config import from_flat, to_flat
from trainables.data.datasets import _load
from trainables.data.words import choose
from trainables.data.words.shipped import read_shipped
from trainables.data.words.words import Words
from trainables.data.words.words_file import to_yaml
from trainables.errors import DataError
from trainables.shell import command

SPACE = {
    "name": "toy",
    "fixed": {
        "data.phantom.num_train": 12,
        "data.phantom.num_val": 6,
        "data.phantom.num_test": 6,
        "encoder.image_size": 32,
    },
    "parameters": {"lora.rank": {"choice": [2, 4, 8]}},
    "search": {"searcher": "grid"},
}
PROJECT = Path(__file__).parents[3]


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIP_ORCHESTRATOR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def cut(own_home: Path) -> Path:
    """A sweep of four trials whose driver was killed: one is done, one failed, one was cut off."""
    space, folder = read_space(SPACE), sweep_folder("cut")
    configs = [trial.config for trial in space.named_trials()]
    configs += [space.resolve(sample) for sample in space.grid()]
    found = [identify(config) for config in configs]
    keys = [each.trial_key for each in found]
    with Ledger(folder) as ledger:
        ledger.append(describe("cut", space))
        for each, config, name in zip(found, configs, ("frozen", "rank=8", "rank=2"), strict=False):
            ledger.append(TrialPlaced(trial_key=each.trial_key, arm_key=each.trial_key, name=name,
                config=to_flat(config), attempt=1, is_baseline=name == "frozen",
                data_fingerprint=each.data, model_fingerprint=each.model, words_fingerprint=each.words,
            ))  # fmt: skip
        ledger.append(TrialFinished(trial_key=keys[0], attempt=1, seconds=1.0, stopped_early=False,
            metrics={space.objective: 0.75}, workdir="trials/a", results={},
        ))  # fmt: skip
        ledger.append(TrialFailed(trial_key=keys[1], attempt=1, cause="non_finite", message="loss is nan"))
        ledger.append(TrialReported(trial_key=keys[2], attempt=1, epoch=1, metrics={"train/loss": 1.0}))
    return folder


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert execute(list(arguments)) == 2
    said = without_progress(capsys.readouterr().err)
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def test_status_says_what_is_done_failed_interrupted_and_to_come(cut: Path, capsys):
    assert execute(["status", "cut"]) == 0
    printed = capsys.readouterr().out
    assert "sweep 'cut': not running; 1 done, 1 interrupted, 1 failed, 1 pending" in printed
    assert "done         frozen  0.7500" in printed
    assert "failed       rank=8: loss is nan" in printed
    assert "interrupted  rank=2  epoch 1/" in printed
    assert "sweep --resume cut" in printed
    assert execute(["status", "cut", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"done": 1, "interrupted": 1, "failed": 1, "pending": 1}
    assert found["driver"] is None


def test_status_of_a_sweep_that_runs_names_its_process(cut: Path, capsys):
    with Ledger(cut):
        assert execute(["status", "cut"]) == 0
    printed = capsys.readouterr().out
    assert f"run by process {os.getpid()}; 1 done, 1 running" in printed
    assert "stop cut" in printed


def test_status_says_what_a_trial_waits_for_while_the_sweep_runs(cut: Path, capsys):
    key = next(key for key, trial in read_ledger(cut).trials.items() if trial.name == "rank=2")
    (cut / "waiting.json").write_text(json.dumps({key: "waits for 2 GPUs: 1 of 4 free"}))
    with Ledger(cut):
        assert execute(["status", "cut"]) == 0
    printed = capsys.readouterr().out
    assert "1 done, 1 waiting" in printed
    assert "waiting      rank=2  epoch 1/" in printed
    assert "waits for 2 GPUs: 1 of 4 free" in printed
    assert execute(["status", "cut"]) == 0  # nobody runs it: what was left there is of no account
    assert "waits" not in capsys.readouterr().out


def test_status_loads_neither_ray_nor_torch(cut: Path):
    code = (
        "import sys; from orchestrator.cli.app import execute; execute(['status', 'cut']);"
        "print(sorted({'ray', 'torch', 'mlflow'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert answer.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", [["status"], ["stop"], ["sweep", "--resume"]])
def test_a_sweep_that_is_not_there_offers_the_nearest(cut: Path, capsys, command: list[str]):
    assert "did you mean 'cut'?" in refusal(capsys, *command, "cuts")
    assert not (cut.parent / "cuts").exists()
    assert "start with a letter or digit" in refusal(capsys, *command, "../cut")


@pytest.fixture
def away(cut: Path, tmp_path: Path) -> Storage:
    """The same sweep, as a driver on another machine keeps it in a storage; this machine has none."""
    storage = open_storage(str(tmp_path / "storage"))
    storage.check()
    for path in (cut / "ledger").glob("segment-*"):
        storage.put_file(path, f"sweeps/cut/ledger/{path.name}")
    shutil.rmtree(cut)
    return storage


def files_of(storage: Storage) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(storage.uri).rglob("*") if path.is_file()}


def test_a_sweep_elsewhere_is_read_and_nothing_is_left(away: Storage, own_home: Path, capsys):
    holder = Holder("other", "far", 4711, "another", "2026-01-01", "2026-01-01")
    away.put_bytes("sweeps/cut/lease.json", holder.to_bytes())
    before = files_of(away)
    assert execute(["status", "cut", "--storage", away.uri]) == 0
    printed = capsys.readouterr().out
    assert f"sweep 'cut' in {away.uri}: run by process 4711 on far; 1 done, 1 running, 1 failed" in printed
    assert f"stop the sweep after the running epochs on far: {command('stop cut')}" in printed
    assert execute(["status", "--storage", away.uri, "--json"]) == 0  # the newest there
    found = json.loads(capsys.readouterr().out)
    assert (found["driver"], found["host"], found["storage"]) == (4711, "far", away.uri)
    assert execute(["leaderboard", "cut", "--storage", away.uri, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["name"] == "frozen"
    assert files_of(away) == before
    assert not list((own_home / "sweeps").iterdir())


def test_who_is_not_heard_from_any_more_runs_nothing(away: Storage, capsys):
    holder = Holder("other", "far", 4711, "another", "2026-01-01", "2026-01-01")
    away.put_bytes("sweeps/cut/lease.json", holder.to_bytes())
    os.utime(Path(away.uri) / "sweeps/cut/lease.json", (0, 0))
    assert execute(["status", "cut", "--storage", away.uri]) == 0
    printed = capsys.readouterr().out
    assert "not running; 1 done, 1 interrupted, 1 failed" in printed
    assert f"resume the sweep: {command('sweep --resume cut --storage')} '{away.uri}'" in printed


def test_the_variable_stands_in_for_what_is_not_here_and_hides_nothing_that_is(
    away: Storage, own_home: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CLIP_ORCHESTRATOR_STORAGE", away.uri)
    assert execute(["status", "cut"]) == 0
    assert f"in {away.uri}: not running; 1 done" in capsys.readouterr().out
    with Ledger(sweep_folder("cut")) as ledger:
        ledger.append(describe("cut", read_space(SPACE)))
    for arguments in (["status", "cut"], ["status"]):
        assert execute(arguments) == 0
        assert "sweep 'cut': not running; 4 pending" in capsys.readouterr().out
    assert execute(["status", "cut", "--storage", away.uri]) == 0
    assert "1 done" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["status", "leaderboard"])
def test_what_is_not_in_a_storage_is_said(away: Storage, tmp_path: Path, capsys, command: str):
    nothing, empty = tmp_path / "stroage", tmp_path / "empty"
    empty.mkdir()
    for arguments, words in {
        (
            "cuts",
            away.uri,
        ): f"on this machine or in {away.uri} (has: cut); did you mean 'cut'?",
        (
            "cut",
            str(nothing),
        ): f"storage {nothing}: there is no such folder on this machine; mount it, or",
        ("cut", str(empty)): f"on this machine or in {empty} (has: none)",
        ("../cut", away.uri): "start with a letter or digit",
        ("cut", "s4://bucket"): "unknown kind of storage",
    }.items():
        assert words in refusal(capsys, command, arguments[0], "--storage", arguments[1])
    assert "no sweep in" in refusal(capsys, command, "--storage", str(empty))
    assert not nothing.exists()


def test_stop_refuses_a_sweep_that_nobody_runs(cut: Path, capsys):
    said = refusal(capsys, "stop", "cut")
    assert "not running" in said
    assert "status cut" in said


def test_a_lock_that_says_a_stranger_s_number_gets_no_signal(cut: Path, capsys):
    with Ledger(cut):
        (cut / "ledger" / "lock").write_text("1")
        assert running_driver(cut) == 1
        assert "process 1 of another machine" in refusal(capsys, "stop", "cut")


def test_a_process_that_the_signal_would_kill_gets_none(cut: Path, capsys):
    with Ledger(cut):  # this process holds the lock, without a handler
        assert "cannot be stopped yet" in refusal(capsys, "stop", "cut")
    with stop_requests() as interrupted, Ledger(cut):
        assert execute(["stop", "cut"]) == 0
    assert interrupted.is_asked_to_stop
    assert interrupted.exit_code == 130
    assert "sweep --resume cut" in capsys.readouterr().out


def test_a_sweep_that_runs_is_not_resumed(cut: Path, capsys):
    with Ledger(cut):
        assert f"being run by process {os.getpid()}" in refusal(capsys, "sweep", "--resume", "cut")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--resume", "cut", "--trials", "3"], "SPACE, --trials: cannot be combined with --resume"),
        (["--extend", "3"], "--extend: can be used only with --resume NAME"),
        (["--retry-failed"], "--retry-failed: can be used only with --resume NAME"),
        (["--resume", "cut", "--extend", "5"], "the grid of sweep 'cut' has no more trials"),
    ],
)
def test_options_that_do_not_go_together_are_refused(cut: Path, capsys, arguments: list[str], words: str):
    assert words in refusal(capsys, "sweep", *arguments)


def test_a_sweep_that_never_began_has_nothing_to_go_on_with(own_home: Path, capsys):
    Ledger(sweep_folder("empty")).close()
    assert "ended before its first trial" in refusal(capsys, "sweep", "--resume", "empty")
    assert execute(["status", "empty"]) == 0


def test_an_unchanged_sweep_has_not_drifted(cut: Path):
    check_drift(read_ledger(cut), identify)


def test_another_captioner_is_refused_once_a_trial_was_placed_with_one(own_home: Path, tmp_path: Path):
    blip = tmp_path / "blip"
    blip.mkdir()
    asked = {"data.captions": "blip_label", "captioner.name": str(blip)}
    space = read_space(SPACE | {"fixed": SPACE["fixed"] | asked})
    config = space.resolve({"lora.rank": 2})
    with Ledger(sweep_folder("said")) as ledger:
        ledger.append(describe("said", space))
        for attempt in (1, 2):  # its weights come between the two
            found = identify(config)
            ledger.append(TrialPlaced(trial_key="key", arm_key="arm", name="a", config=to_flat(config),
                attempt=attempt, is_baseline=False, data_fingerprint=found.data,
                model_fingerprint=found.model, captioner_fingerprint=found.captioner,
            ))  # fmt: skip
            (blip / "model.safetensors").write_text("one")
            check_drift(read_ledger(sweep_folder("said")), identify)
    (blip / "model.safetensors").write_text("another")
    with pytest.raises(DataError, match=rf"the weights of {blip} \(\w+ then, \w+ now\)"):
        check_drift(read_ledger(sweep_folder("said")), identify)


def test_a_sweep_of_a_version_that_noted_no_inputs_is_refused(cut: Path, capsys):
    trial = next(iter(read_ledger(cut).trials.values()))
    with Ledger(cut) as ledger:
        ledger.append(TrialPlaced(trial_key="of before", arm_key="arm", name="old", config=trial.config,
            attempt=1, is_baseline=False,
        ))  # fmt: skip
    before = read_ledger(cut).next_seq
    assert "started by an older version" in refusal(capsys, "sweep", "--resume", "cut", "--retry-failed")
    assert read_ledger(cut).next_seq == before


def test_other_code_is_refused_before_anything_starts(cut: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(provenance, "code_fingerprint", lambda: "0123456789abcdef")
    before = read_ledger(cut).next_seq
    with pytest.raises(DataError, match=r"the code in trainables/ \(.* then, 0123456789abcdef now\)"):
        run_sweep(read_space(SPACE), SweepOptions(name="cut", resumes=True), SweepObserver())
    assert read_ledger(cut).next_seq == before


@pytest.mark.parametrize(
    ("what", "words"), [("load_dataset", "the data"), ("model_fingerprint", "the weights of lite0-minilm")]
)
def test_other_data_or_weights_are_refused(cut: Path, monkeypatch, what: str, words: str):
    class Changed:
        fingerprint = content_fingerprint = "changed"
        words = Words()

    changed = Changed() if what == "load_dataset" else "changed"
    monkeypatch.setattr(f"orchestrator.planning.identity.{what}", lambda config: changed)
    with pytest.raises(DataError, match=rf"{words} \(\w+ then, changed now\)"):
        check_drift(read_ledger(cut), identify)


def test_other_words_are_refused(own_home: Path, tmp_path: Path):
    path = tmp_path / "own.yaml"
    words = read_shipped("covid_qu_ex")
    path.write_text(to_yaml(words.classes, words.sources))
    space = read_space(SPACE | {"fixed": SPACE["fixed"] | {"data.prompts": str(path)}})
    adapted, frozen = space.resolve({"lora.rank": 2}), from_flat({"adapt.method": "baseline"})
    with Ledger(sweep_folder("said")) as ledger:
        ledger.append(describe("said", space))
        for key, config in (("adapted", adapted), ("classifier", frozen)):
            found = identify(config)
            ledger.append(TrialPlaced(trial_key=key, arm_key="arm", name=key, config=to_flat(config),
                attempt=1, data_fingerprint=found.data, model_fingerprint=found.model,
                words_fingerprint=found.words,
            ))  # fmt: skip
    check_drift(read_ledger(sweep_folder("said")), identify)
    path.write_text(path.read_text().replace("The lungs are clear.", "Both lungs are dark with air."))
    _load.cache_clear(), choose._read.cache_clear()  # as another process would find it
    with pytest.raises(DataError, match=r"resumed: the words of captions and prompts \(\w+ then, \w+ now\)"):
        check_drift(read_ledger(sweep_folder("said")), identify)
    _load.cache_clear(), choose._read.cache_clear()


def test_sweeps_are_listed_with_state_score_and_size(cut: Path, capsys):
    assert execute(["sweeps"]) == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"^cut +20\d\d-\d\d-\d\d \d\d:\d\d  interrupted +[\d.]+ \w+ +0\.7500 val/", printed, re.M
    )
    assert command("sweeps delete NAME") in printed
    assert execute(["sweeps", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["name"], found["state"], found["best_score"]) == ("cut", "interrupted", 0.75)


def test_no_sweeps_are_no_error(own_home: Path, capsys):
    assert execute(["sweeps"]) == 0
    assert command("sweep") in capsys.readouterr().out


def test_a_sweep_is_deleted_once_the_user_is_sure(cut: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert execute(["sweeps", "delete", "cut"]) == 130
    assert cut.is_dir()
    assert "Delete sweep 'cut'" in capsys.readouterr().out
    with Ledger(cut):
        assert execute(["sweeps", "delete", "cut", "--yes"]) == 2
    assert "process" in capsys.readouterr().err
    assert cut.is_dir()
    assert execute(["sweeps", "delete", "cut", "--yes"]) == 0
    assert not cut.exists()
    assert re.match(r"deleted sweep 'cut': [\d.]+ \w+ freed", capsys.readouterr().out)
    assert execute(["status", "cut"]) == 2


@pytest.mark.parametrize("arguments", [["sweeps", "delete", "cuts", "--yes"], ["leaderboard", "cuts"],
                                       ["ui", "cuts"], ["sync", "cuts"]])  # fmt: skip
def test_every_command_offers_the_nearest_sweep(cut: Path, capsys, arguments: list[str]):
    assert "did you mean 'cut'?" in refusal(capsys, *arguments)
    assert cut.is_dir()


def test_the_last_line_after_an_interruption_resumes_the_sweep():
    last = list(next_commands("cut", 130, "10.0.0.1:6379").items())[-1]
    assert last == ("sweep --resume cut --address 10.0.0.1:6379", "resume this sweep")
    assert list(next_commands("cut", 3, None))[-1] == "sweep --resume cut --retry-failed"
    assert not any("--resume" in arguments for arguments in next_commands("cut", 0, None))
