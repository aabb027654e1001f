"""The same fine-tune in one process and over two real Ray Train workers: the same losses."""

import json
from pathlib import Path

import numpy as np
import pytest
from sweep_process import run_driver

from orchestrator.storage.ledger import read_ledger

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
SPACE = {
    "name": "workers",
    "fixed": {
        "data.phantom.num_train": 43,  # six batches of 7 and one pair left, which joins the last: 8
        "data.phantom.num_val": 12,
        "data.phantom.num_test": 12,
        "data.num_views": 2,
        "encoder.image_size": 32,
        "lora.dropout": 0.1,
        "global_batch_size": 7,  # shares of 3 and 4
        "num_epochs": 4,
        "optim.learning_rate": 2e-3,
        "execution.evaluate_every_epochs": 0,
    },
    "arms": [{"name": "LoRA", "adapt.method": "lora+projection"}],
    "repeat": {"seed": [0, 1]},
    "search": {"max_concurrent": 1},
}
SAME = 1e-9
"""In float64, where rounding of 2e-16 grows to some 1e-14 over the steps of AdamW."""


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], list[float]]:
    """(number of workers, seed) → the loss of every step."""
    found = {}
    for num_workers in (1, 2):
        home = tmp_path_factory.mktemp(f"workers-{num_workers}") / "home"
        options = {"name": "workers", "num_workers": num_workers, "trainable": "toy_trainable:real_finetune"}
        run_driver(home, SPACE, **options)
        folder = home / "sweeps" / "workers"
        for trial in read_ledger(folder).trials.values():
            if trial.is_baseline:
                continue
            assert trial.status == "finished", trial.message
            workdir = folder / trial.workdir
            check_processes(workdir, num_workers, trial.metrics["perf/num_parameters"])
            lines = map(json.loads, (workdir / "steps.jsonl").read_text().splitlines())
            found[num_workers, trial.config["seed"]] = [line["loss"] for line in lines]
    return found


def check_processes(workdir: Path, num_workers: int, num_parameters: float) -> None:
    """Every rank is a process of its own in which every trainable parameter moved."""
    seen = [path.read_text().split() for path in sorted(workdir.glob("rank-*.txt"))]
    assert len({pid for pid, _ in seen}) == num_workers
    assert all(int(moved) == num_parameters for _, moved in seen)


def test_losses_do_not_depend_on_the_number_of_workers(losses) -> None:
    one, two = losses[1, 0], losses[2, 0]
    assert len(one) == 24
    assert one[-1] < one[0]
    np.testing.assert_allclose(two, one, rtol=SAME)


def test_a_wrong_gradient_on_one_rank_is_noticed(losses) -> None:
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(losses[2, 1], losses[1, 1], rtol=1e-4)
