"""`torchrun -m trainables`: the same training over any number of ranks, also one that changes on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import float64
import pytest
from float64 import SAME, trials_in_float64
from safetensors.torch import load_file
from torch.testing import assert_close

from trainables.__main__ import main
from trainables.artifacts import about, is_whole
from trainables.training.checkpoint import newest_first

PROJECT = Path(__file__).parents[2]
TRIAL = {
    "data": {"phantom": {"num_train": 24, "num_val": 6, "num_test": 6}, "num_views": 2},
    "encoder.image_size": 32,
    "lora": {"dropout": 0.2},
    "global_batch_size": 7,  # shares of 3 and 4; the tail of 3 makes shares of 1 and 2
    "num_epochs": 4,
    "execution.evaluate_every_epochs": 3,
}
NUM_STEPS, PER_EPOCH = 16, 4
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


class Run:
    """One trial with a workdir and a store of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.workdir, self.store, trial = folder / "work", folder / "store", folder / "trial.yaml"
        trial.write_text(json.dumps(TRIAL))
        self.arguments = ["finetune", str(trial), "--store", str(self.store), "--workdir", str(self.workdir)]

    def here(self, *more: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            trials_in_float64(patch)
            assert main([*self.arguments, *more]) == 0

    def start(self, num_ranks: int, *more: str) -> subprocess.Popen[str]:
        how = [*TORCHRUN, str(num_ranks)] if num_ranks > 1 else []
        return start(*how, float64.__file__, *self.arguments, *more)

    def over(self, num_ranks: int, *more: str) -> str:
        process = self.start(num_ranks, *more)
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        return errors

    def kill_after_an_epoch(self, num_ranks: int) -> None:
        process = self.start(num_ranks)
        while not list(self.workdir.glob("checkpoints/step-*/manifest.json")):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        kill(process)
        assert not list(self.store.glob("adapters/*")), "it was over before it could be killed"

    @property
    def steps(self) -> list[int]:
        return [line["step"] for line in read_lines(self.workdir / "steps.jsonl")]

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in read_lines(self.workdir / "steps.jsonl")]

    @property
    def epochs(self) -> list[dict[str, float]]:
        """What was reported, without the speed."""
        lines = read_lines(self.workdir / "metrics.jsonl")
        return [{key: line[key] for key in line if not key.startswith("perf/")} for line in lines]

    @property
    def adapter(self) -> Path:
        (folder,) = (path for path in self.store.glob("adapters/*") if is_whole(path))
        return folder


def start(*arguments: str) -> subprocess.Popen[str]:
    own = {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=PROJECT, env=os.environ | own, stderr=subprocess.PIPE, text=True
    )


def kill(process: subprocess.Popen[str]) -> None:
    """Kills torchrun and its ranks, which it puts into sessions of their own, at one moment."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def read_lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_same(run: Run, undisturbed: Run) -> None:
    assert run.steps == list(range(NUM_STEPS))  # none missing, none twice
    assert run.losses == pytest.approx(undisturbed.losses, rel=SAME)
    assert [epoch["train/epoch"] for epoch in run.epochs] == [1, 2, 3, 4]
    for epoch, expected in zip(run.epochs, undisturbed.epochs, strict=True):
        for name, value in epoch.items():
            # Embeddings are kept in float32: one that is rounded the other way moves a score by 1e-7.
            assert value == pytest.approx(expected[name], rel=1e-6), name
        assert epoch.keys() == expected.keys()
    assert len(about(run.adapter)["epochs"]) == 4
    for name in ("adapter_model.safetensors", "extra.safetensors"):
        tensors, expected = (load_file(folder / name) for folder in (run.adapter, undisturbed.adapter))
        assert_close(tensors, expected, rtol=0, atol=SAME)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One process, from the first step to the last."""
    run = Run(tmp_path_factory.mktemp("undisturbed"))
    run.here()
    assert run.losses[-PER_EPOCH] < run.losses[0]
    return run


@pytest.fixture
def new_run(tmp_path: Path, undisturbed: Run) -> Callable[[], Run]:
    """Makes a run whose store holds what is derived from weights and pixels alone, and no adapter."""

    def make() -> Run:
        run = Run(tmp_path)
        shutil.copytree(undisturbed.store, run.store, ignore=shutil.ignore_patterns("adapters"))
        return run

    return make


@pytest.mark.kernels
def test_two_processes_train_the_same_adapter_as_one(new_run: Callable[[], Run], undisturbed: Run) -> None:
    run = new_run()
    errors = run.over(2)
    check_same(run, undisturbed)
    assert errors.count("epoch 1 ") == 1  # rank 0 alone speaks
    assert json.loads((run.workdir / "metrics.json").read_text())["train/epoch"] == 4


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("before", "after"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)], ids=["2 to 1", "1 to 2"]
)
def test_a_killed_run_goes_on_with_another_number_of_processes(
    new_run: Callable[[], Run], undisturbed: Run, before: int, after: int
) -> None:
    run = new_run()
    run.kill_after_an_epoch(before)
    resume = ("--resume-from", "latest")
    run.here(*resume) if after == 1 else run.over(after, *resume)
    check_same(run, undisturbed)


EACH_ITS_OWN_WORKDIR = """
import os, sys
from trainables.__main__ import main
sys.exit(main([*sys.argv[2:], "--workdir", sys.argv[1] + os.environ["RANK"], "--resume-from", "latest"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            lambda place: (place / "progress.json").write_text("{}"),
            "progress.json: this file is missing or has changed",
            marks=pytest.mark.faults,
        ),
        (shutil.rmtree, "the ranks would resume from different steps, 0 to "),
    ],
    ids=["damaged on one machine", "on one machine only"],
)
def test_ranks_that_cannot_go_on_together_say_so_once(
    new_run: Callable[[], Run], tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    run = new_run()
    run.kill_after_an_epoch(1)
    for rank in range(2):
        shutil.copytree(run.workdir, tmp_path / f"machine-{rank}")
    for place in (tmp_path / "machine-1" / "checkpoints").glob("step-*"):
        damage(place)
    script = tmp_path / "each.py"
    script.write_text(EACH_ITS_OWN_WORKDIR)
    process = start(*TORCHRUN, "2", str(script), str(tmp_path / "machine-"), *run.arguments)
    _, errors = process.communicate(timeout=200)
    assert process.returncode != 0
    assert errors.count("error: ") == 1, errors
    assert message in errors


def test_a_trained_adapter_is_not_trained_again(undisturbed: Run) -> None:
    losses = undisturbed.losses
    undisturbed.here("--resume-from", "latest")
    assert undisturbed.losses == losses
    assert len(undisturbed.epochs) == 4


def test_a_checkpoint_of_another_training_is_refused(
    new_run: Callable[[], Run], undisturbed: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run()
    place = newest_first(undisturbed.workdir / "checkpoints")[0]
    assert main([*run.arguments, "--set", "seed=1", "--resume-from", str(place)]) == 2
    assert "belongs to adapter" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("lora: {rnk: 8}", [], "trial.yaml.lora.rnk: no such field; did you mean 'lora.rank'?"),
        ("lora.rank: eight", [], "trial.yaml.lora.rank: \"eight\" must be a whole number"),
        ("lora.rank: 8\nlora: {rank: 4}", [], "trial.yaml: 'lora.rank' is set twice"),
        ("lora: [", [], "trial.yaml, line 1: "),
        ("- lora", [], "trial.yaml: must be a mapping"),
        (None, [], "trial.yaml: cannot be read"),
        ("{}", ["--set", "lora.rnk=8"], "--set lora.rnk: no such field; did you mean 'lora.rank'?"),
        ("{}", ["--resume-from", "nowhere"], "--resume-from nowhere: no such folder"),
        ("{}", ["--sett", "lora.rank=8"], "unrecognized arguments: --sett"),
        ("{}", ["--workdir", "/dev/null/work"], "/dev/null/work: cannot create this folder"),
        ("execution.device: cuda", [], "0 GPUs on this machine"),
        ("encoder.precision: auto", [], "trial.yaml.encoder.precision: auto is chosen by timing"),
    ],
)  # fmt: skip
def test_bad_input_is_one_message(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    content: str | None,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    trial = tmp_path / "trial.yaml"
    if content is not None:
        trial.write_text(content)
    places = ["--store", str(tmp_path / "store"), "--workdir", str(tmp_path / "work")]
    assert main(["finetune", str(trial), *places, *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert printed.out == ""


def test_what_is_no_trainable_is_refused_without_a_traceback() -> None:
    process = start("-m", "trainables", "finetun", "trial.yaml", "--store", "s", "--workdir", "w")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors == "error: no trainable 'finetun'; did you mean 'finetune'?\n"


def test_only_rank_0_speaks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    assert main(["finetune"]) == 2
    assert capsys.readouterr().err == ""
