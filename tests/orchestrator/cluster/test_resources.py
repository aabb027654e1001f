import stat
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cluster import resources
from orchestrator.cluster.resources import Machine, TrialMemory, fit
from trainables.errors import ClusterError
from trainables.training import hardware

LAPTOP = Machine(num_cpus=2, num_gpus=0, memory_gb=16)
STATION = Machine(num_cpus=16, num_gpus=4, memory_gb=128)


def test_cores_are_shared_among_the_trials():
    found = fit(1, machine=LAPTOP)
    assert (found.max_concurrent, found.cpus_per_trial, found.gpus_per_trial, found.device) == (
        2,
        1,
        0,
        "cpu",
    )
    assert found.reason == "2 CPU cores, no GPU in use: 2 trials at once with 1 core each"


def test_a_single_trial_gets_every_core():
    assert fit(1, num_trials=1, machine=LAPTOP).cpus_per_trial == 2


def test_the_user_sets_an_upper_limit():
    found = fit(1, max_concurrent=3, machine=Machine(12, 0, 64))
    assert (found.max_concurrent, found.cpus_per_trial) == (3, 4)


def test_memory_limits_trials_at_once():
    assert fit(1, machine=Machine(num_cpus=64, num_gpus=0, memory_gb=10)).max_concurrent == 4


def test_what_a_trial_takes_lowers_the_number_at_once_and_is_said():
    large = TrialMemory(resident=3.5, graphs=20, least=0.5)
    found = fit(1, memory=large, machine=LAPTOP)
    assert found.max_concurrent == 2
    assert found.memory_budget_gb == pytest.approx(16 * 0.8 / 2 - 3.5)
    assert "memory" not in found.reason
    found = fit(1, memory=replace(large, resident=7), machine=LAPTOP)
    assert found.max_concurrent == 1
    assert found.reason.endswith("1 trial at once with 2 cores each, as each takes 7.5 of 16.0 GB of memory")


def test_every_worker_gets_a_core():
    found = fit(2, machine=Machine(5, 0, 64))
    assert (found.max_concurrent, found.cpus_per_trial) == (2, 2)


def test_a_gpu_is_used_where_there_is_one():
    found = fit(1, machine=STATION)
    assert (found.max_concurrent, found.cpus_per_trial, found.gpus_per_trial, found.device) == (
        4,
        4,
        1,
        "cuda",
    )
    assert found.num_gpus == 4
    assert fit(1, "cpu", machine=STATION).device == "cpu"
    assert fit(1, "cpu", machine=STATION).num_gpus == 0


def test_trials_can_share_a_gpu():
    found = fit(1, gpus_per_trial=0.25, machine=Machine(16, 1, 64))
    assert (found.max_concurrent, found.gpus_per_trial) == (4, 0.25)
    assert (
        fit(1, gpus_per_trial=0.4, machine=STATION).max_concurrent == 8
    )  # two on each: a trial never spans GPUs


def test_a_shared_gpu_holds_no_more_trials_than_fit_into_its_memory():
    gpu = Machine(16, 1, 64, gpu_memory_gb=24)
    found = fit(1, gpus_per_trial=0.25, machine=gpu, memory=TrialMemory(resident=9, graphs=4, least=1))
    assert (found.max_concurrent, found.gpus_per_trial) == (2, 0.5)
    assert "0.5 GPU each rather than 0.25, as each takes 10.0 of its 24.0 GB" in found.reason
    small = fit(1, gpus_per_trial=0.25, machine=gpu, memory=TrialMemory(resident=2, least=1))
    assert (small.max_concurrent, "rather" in small.reason) == (4, False)
    large = fit(1, gpus_per_trial=0.25, machine=gpu, memory=TrialMemory(resident=30, least=1))
    assert (large.max_concurrent, large.gpus_per_trial) == (1, 1)


def test_trials_share_a_gpu_by_themselves_where_that_is_asked_for():
    gpu = Machine(16, 2, 64, gpu_memory_gb=24)
    memory = TrialMemory(resident=2, graphs=3, least=0.5)
    found = fit(1, gpus_per_trial="auto", machine=gpu, memory=memory)
    assert (found.max_concurrent, found.gpus_per_trial) == (8, 0.25)
    assert found.reason.endswith("as each takes at most 5.0 of its 24.0 GB (gpus_per_trial=auto)")
    assert found.memory_budget_gb == pytest.approx(24 * 0.9 / 4 - 2)
    assert found.num_gpus == 2
    few = fit(1, gpus_per_trial="auto", machine=gpu, memory=memory, num_trials=3)
    assert (few.max_concurrent, few.gpus_per_trial) == (3, 0.5)  # two on one, one on the other
    large = fit(1, gpus_per_trial="auto", machine=gpu, memory=TrialMemory(resident=20, graphs=9))
    assert (large.max_concurrent, large.gpus_per_trial, large.memory_budget_gb) == (2, 1, None)
    assert fit(2, gpus_per_trial="auto", machine=gpu, memory=memory).gpus_per_trial == 2
    assert fit(1, machine=gpu, memory=memory).gpus_per_trial == 1


@pytest.mark.parametrize(
    ("num_workers", "device", "machine", "message"),
    [
        (3, "auto", LAPTOP, "--workers 3: this machine has 2 CPU cores.*use --workers 2"),
        (5, "auto", STATION, "--workers 5: this machine has 4 GPUs.*execution.device=cpu"),
        (1, "cuda", LAPTOP, "offers no GPU.*execution.device=cpu"),
    ],
)
def test_what_cannot_fit_is_refused_with_what_can(
    num_workers: int, device: str, machine: Machine, message: str
):
    with pytest.raises(ClusterError, match=message):
        fit(num_workers, device, machine=machine)


def test_two_workers_cannot_share_a_gpu():
    with pytest.raises(ClusterError, match="each worker takes one GPU"):
        fit(2, gpus_per_trial=0.5, machine=STATION)


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
