import json
from pathlib import Path

import pytest

from orchestrator.cluster.fit import fit
from orchestrator.cluster.gcs_client import NodeGroup, nodes_to_come
from orchestrator.cluster.nodes import Cluster, Node
from orchestrator.cluster.resources import Machine

GPU, CPU = Machine(4, 1, 16.0), Machine(8, 0, 32.0)
SETTINGS = {
    "head_node_type": "head",
    "max_workers": 4,
    "available_node_types": {
        "head": {"resources": {"CPU": 0, "GPU": 0}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 8, "memory": 32 * 2**30}, "max_workers": 2},
        "gpu": {"resources": {"CPU": 4, "GPU": 1, "memory": 16 * 2**30}, "max_workers": 3},
    },
}


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "ray_bootstrap_config.yaml"
    path.write_text(json.dumps(SETTINGS))
    return path


def test_all_workers_are_to_come_at_first_and_never_more_than_allowed_in_all(settings: Path):
    assert nodes_to_come([Machine(0, 0, 8.0)], settings) == (GPU, GPU, GPU, CPU)


def test_a_worker_that_is_there_is_not_to_come(settings: Path):
    assert nodes_to_come([Machine(0, 0, 8.0), GPU, CPU], settings) == (GPU, GPU)
    assert nodes_to_come([GPU, GPU, GPU, CPU], settings) == ()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"available_node_types": 3}', "no: json"])
def test_without_an_autoscaler_nothing_is_to_come(tmp_path: Path, content: str):
    assert nodes_to_come([GPU], tmp_path / "none") == ()
    (tmp_path / "settings").write_text(content)
    assert nodes_to_come([GPU], tmp_path / "settings") == ()


def test_trials_count_on_what_is_to_come(settings: Path):
    head = Machine(0, 0, 8.0)
    cluster = Cluster("head:6379", (Node("0", head),), nodes_to_come([head], settings))
    found = fit(1, cluster=cluster)
    assert (found.max_concurrent, found.device) == (3, "cuda")
    assert (
        "3 nodes with 12 CPU cores and 3 GPUs (3 of them not started yet): 3 trials at once" in found.reason
    )


def test_what_the_head_was_told_of_counts_before_a_file(settings: Path):
    groups = [
        NodeGroup({"CPU": 0}, 1),  # the head
        NodeGroup({"CPU": 4, "GPU": 1, "memory": 16 * 2**30}, 2),
        NodeGroup({"CPU": 8}, -1),
    ]
    coming = nodes_to_come([Machine(0, 0, 8.0), GPU], settings, groups)
    assert coming.count(GPU) == 1
    assert coming.count(Machine(8, 0, 16.0)) == 100
