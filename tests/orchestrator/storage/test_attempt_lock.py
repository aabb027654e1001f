import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from orchestrator.storage.attempt_lock import taken_over
from trainables.errors import ClusterError
from trainables.training.checkpoint import Checkpoint, write_checkpoint

HOLD = (
    "import sys; from pathlib import Path; from orchestrator.storage.attempt_lock import taken_over\n"
    "with taken_over(Path(sys.argv[1]), 1): print('held', flush=True); sys.stdin.read()"
)


def checkpoint_at(workdir: Path, step: int) -> Path:
    tensors = {"w": torch.zeros(1)}
    return write_checkpoint(workdir / "checkpoints", Checkpoint(tensors, tensors, {"step": step}, "toy"))


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_the_first_attempt_starts_at_the_start(tmp_path: Path):
    with taken_over(tmp_path / "new", 1) as checkpoint:
        assert checkpoint == (None, [])
        assert (tmp_path / "new").is_dir()


def test_a_later_attempt_goes_on_from_the_newest_sound_checkpoint_and_names_the_damaged(tmp_path: Path):
    with taken_over(tmp_path, 2) as found:
        assert found == (None, [])  # it never got as far as one
    sound, damaged = checkpoint_at(tmp_path, 3), checkpoint_at(tmp_path, 6)
    spoil(damaged / "parameters.safetensors")
    with taken_over(tmp_path, 3) as (checkpoint, damages):
        assert checkpoint == sound
        assert len(damages) == 1
        assert str(damaged / "parameters.safetensors") in damages[0]


def test_an_attempt_waits_for_what_a_killed_driver_left_running(tmp_path: Path):
    left_over = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    try:
        assert left_over.stdout.readline() == b"held\n"
        with (
            pytest.raises(ClusterError, match="attempt 1 still uses this folder"),
            taken_over(tmp_path, 2, patience_seconds=0.2),
        ):
            pass
    finally:
        left_over.kill()
        left_over.communicate()
    with taken_over(tmp_path, 2):  # the kernel let go of it
        pass


def test_the_ranks_of_one_attempt_do_not_wait_for_each_other(tmp_path: Path):
    with taken_over(tmp_path, 2), taken_over(tmp_path, 2, patience_seconds=0):
        pass
