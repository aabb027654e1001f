import os
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ray.exceptions import ActorDiedError
from torch import multiprocessing

from orchestrator.worker.failures import has_lost_peers


def meet(rank: int, folder: Path) -> None:
    """Rank 1 is killed; rank 0 writes whether its error says that it has lost its peer."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    dist.barrier()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        for _ in range(3):
            dist.all_reduce(torch.ones(4))
    except RuntimeError as error:
        (folder / "said").write_text(f"{has_lost_peers(error)}")
    os._exit(0)


def test_the_error_of_a_collective_after_a_peer_was_killed_is_no_cause(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=meet, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, -signal.SIGKILL]
    assert (tmp_path / "said").read_text() == "True"


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [(ActorDiedError(), True), (RuntimeError("size mismatch"), False), (OSError("reset by peer"), False)],
)
def test_only_the_loss_of_a_process_of_the_trial_counts(error: Exception, is_lost: bool) -> None:
    assert has_lost_peers(error) is is_lost
