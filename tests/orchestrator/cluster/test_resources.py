import stat
from pathlib import Path

import pytest

from orchestrator.cluster import resources
from trainables.training import hardware


def test_this_machine_has_a_core():
    machine = resources.this_machine()
    assert machine.num_cpus >= 1
    assert machine.memory_gb > 0.1


@pytest.mark.parametrize(("visible", "expected"), [(None, 2), ("1", 1), ("", 0), ("-1", 0), ("0,1", 2)])
def test_gpus_are_counted_as_cuda_shows_them(
    visible: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    command = tmp_path / "nvidia-smi"
    command.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: x)'\necho 'GPU 1: NVIDIA H200 (UUID: y)'\n"
    )
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(hardware, "_torch_has_cuda", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert resources.this_machine().num_gpus == expected


def test_the_build_of_torch_is_read_without_importing_it():
    import torch

    assert hardware._torch_has_cuda() == (torch.version.cuda is not None)
