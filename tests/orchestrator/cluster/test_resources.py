from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.cluster import resources
from orchestrator.cluster.fit import fit
from orchestrator.cluster.nodes import one_node
from trainables.errors import ClusterError
from trainables.training import hardware


def test_this_machine_has_a_core():
    machine = resources.this_machine()
    assert machine.num_cpus >= 1
    assert machine.memory_gb > 0.1


TORCH_WITH_TWO_GPUS = """
class cuda:
    class Gpu:
        def __init__(self, number):
            self.major, self.minor, self.total_memory = 8 + number, 0, (number + 1) * 24 * 2**30
    get_device_properties = Gpu
    device_count = lambda: 2
class ones:
    def __init__(self, size, device): pass
    def add(self, one): return self
    def item(self): WORKS
"""
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by "
    "downloading and installing a new version."
)


@pytest.fixture
def torch_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts another torch before the process that is asked: none here has a GPU."""
    hardware.find_gpus.cache_clear()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(hardware, "_torch_has_cuda", lambda: True)
    monkeypatch.setattr(hardware, "_driver_is_there", lambda: True)
    monkeypatch.setattr(hardware, "ANSWER_SECONDS", 20)

    def put(works: str) -> None:
        (tmp_path / "torch.py").write_text(TORCH_WITH_TWO_GPUS.replace("WORKS", works))

    yield put
    hardware.find_gpus.cache_clear()


def test_gpus_are_those_that_torch_computes_on(torch_of_the_driver: Callable[[str], None]) -> None:
    torch_of_the_driver("return 2.0")
    machine = resources.this_machine()
    assert (machine.num_gpus, machine.gpu_memory_gb, machine.gpu_trouble) == (2, 24, "")
    assert hardware.faster_precision.__wrapped__("cuda") == "bfloat16"


@pytest.mark.parametrize(
    ("works", "trouble"),
    [
        (f"raise RuntimeError({TOO_OLD!r})", TOO_OLD.partition(". ")[0]),
        ("import os; os.abort()", "torch crashed"),
        ("import time; time.sleep(60)", "torch did not answer within 1 seconds"),
    ],
    ids=["too old", "crash", "hang"],
)
def test_a_driver_that_torch_cannot_use_means_the_cpu_with_one_line(
    works: str, trouble: str, torch_of_the_driver: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_of_the_driver(works)
    if "sleep" in works:
        monkeypatch.setattr(hardware, "ANSWER_SECONDS", 1)
    machine = resources.this_machine()
    assert (machine.num_gpus, machine.gpu_trouble) == (0, trouble)
    found = fit(1, cluster=one_node(machine))
    assert found.device == "cpu"
    assert f"no GPU in use ({trouble})" in found.reason
    assert "\n" not in found.reason
    with pytest.raises(ClusterError, match="offers no GPU to torch") as refused:
        fit(1, "cuda", cluster=one_node(machine))
    assert trouble in str(refused.value)


def test_the_build_of_torch_is_read_without_importing_it():
    import torch

    assert hardware._torch_has_cuda() == (torch.version.cuda is not None)
