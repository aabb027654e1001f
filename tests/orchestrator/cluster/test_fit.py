from dataclasses import replace

import pytest

from orchestrator.cluster.fit import fit, most_workers
from orchestrator.cluster.nodes import Cluster, Node, one_node
from orchestrator.cluster.resources import Machine, TrialMemory
from trainables.errors import ClusterError

LAPTOP = Machine(num_cpus=2, num_gpus=0, memory_gb=16)
STATION = Machine(num_cpus=16, num_gpus=4, memory_gb=128)
HEAD = Machine(num_cpus=0, num_gpus=0, memory_gb=8)
SMALL = Machine(num_cpus=4, num_gpus=0, memory_gb=16)
LARGE = Machine(num_cpus=16, num_gpus=0, memory_gb=64)
WITH_GPU = Machine(num_cpus=8, num_gpus=2, memory_gb=64)
MEMORY = TrialMemory(resident=1.5, graphs=2, least=0.5)


def cluster(*machines: Machine) -> Cluster:
    return Cluster("head:6379", tuple(Node(str(number), machine) for number, machine in enumerate(machines)))


def test_cores_are_shared_among_the_trials():
    found = fit(1, cluster=one_node(LAPTOP))
    assert (found.max_concurrent, found.cpus_per_trial, found.gpus_per_trial, found.device) == (
        2,
        1,
        0,
        "cpu",
    )
    assert found.reason == "2 CPU cores, no GPU in use: 2 trials at once with 1 core each"


def test_a_single_trial_gets_every_core():
    assert fit(1, num_trials=1, cluster=one_node(LAPTOP)).cpus_per_trial == 2


def test_the_user_sets_an_upper_limit():
    found = fit(1, max_concurrent=3, cluster=one_node(Machine(12, 0, 64)))
    assert (found.max_concurrent, found.cpus_per_trial) == (3, 4)


def test_memory_limits_trials_at_once():
    assert fit(1, cluster=one_node(Machine(num_cpus=64, num_gpus=0, memory_gb=10))).max_concurrent == 4


def test_what_a_trial_takes_lowers_the_number_at_once_and_is_said():
    large = TrialMemory(resident=3.5, graphs=20, least=0.5)
    found = fit(1, memory=large, cluster=one_node(LAPTOP))
    assert found.max_concurrent == 2
    assert found.memory_budget_gb == pytest.approx(16 * 0.8 / 2 - 3.5)
    assert "memory" not in found.reason
    found = fit(1, memory=replace(large, resident=7), cluster=one_node(LAPTOP))
    assert found.max_concurrent == 1
    assert found.reason.endswith("1 trial at once with 2 cores each, limited by the memory of a trial")


def test_every_worker_gets_a_core():
    found = fit(2, cluster=one_node(Machine(5, 0, 64)))
    assert (found.max_concurrent, found.cpus_per_trial) == (2, 2)


def test_a_gpu_is_used_where_there_is_one():
    found = fit(1, cluster=one_node(STATION))
    assert (found.max_concurrent, found.cpus_per_trial, found.gpus_per_trial, found.device) == (
        4,
        4,
        1,
        "cuda",
    )
    assert found.num_gpus == 4
    assert fit(1, "cpu", cluster=one_node(STATION)).device == "cpu"
    assert fit(1, "cpu", cluster=one_node(STATION)).num_gpus == 0


def test_trials_can_share_a_gpu():
    found = fit(1, gpus_per_trial=0.25, cluster=one_node(Machine(16, 1, 64)))
    assert (found.max_concurrent, found.gpus_per_trial) == (4, 0.25)
    assert (
        fit(1, gpus_per_trial=0.4, cluster=one_node(STATION)).max_concurrent == 8
    )  # two on each: a trial never spans GPUs


def test_a_shared_gpu_holds_no_more_trials_than_fit_into_its_memory():
    gpu = Machine(16, 1, 64, gpu_memory_gb=24)
    found = fit(
        1, gpus_per_trial=0.25, cluster=one_node(gpu), memory=TrialMemory(resident=9, graphs=4, least=1)
    )
    assert (found.max_concurrent, found.gpus_per_trial) == (2, 0.5)
    assert "0.5 GPU each rather than 0.25, limited by the memory of a GPU" in found.reason
    small = fit(1, gpus_per_trial=0.25, cluster=one_node(gpu), memory=TrialMemory(resident=2, least=1))
    assert (small.max_concurrent, "rather" in small.reason) == (4, False)
    large = fit(1, gpus_per_trial=0.25, cluster=one_node(gpu), memory=TrialMemory(resident=30, least=1))
    assert (large.max_concurrent, large.gpus_per_trial) == (1, 1)


def test_trials_share_a_gpu_by_themselves_where_that_is_asked_for():
    gpu = Machine(16, 2, 64, gpu_memory_gb=24)
    memory = TrialMemory(resident=2, graphs=3, least=0.5)
    found = fit(1, gpus_per_trial="auto", cluster=one_node(gpu), memory=memory)
    assert (found.max_concurrent, found.gpus_per_trial) == (8, 0.25)
    assert found.reason.endswith("8 trials at once with 0.25 GPU each (gpus_per_trial=auto)")
    assert found.memory_budget_gb == pytest.approx(24 * 0.9 / 4 - 2)
    assert found.num_gpus == 2
    few = fit(1, gpus_per_trial="auto", cluster=one_node(gpu), memory=memory, num_trials=3)
    assert (few.max_concurrent, few.gpus_per_trial) == (3, 0.5)  # two on one, one on the other
    large = fit(1, gpus_per_trial="auto", cluster=one_node(gpu), memory=TrialMemory(resident=20, graphs=9))
    assert (large.max_concurrent, large.gpus_per_trial, large.memory_budget_gb) == (2, 1, None)
    assert fit(2, gpus_per_trial="auto", cluster=one_node(gpu), memory=memory).gpus_per_trial == 2
    assert fit(1, cluster=one_node(gpu), memory=memory).gpus_per_trial == 1


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
        fit(num_workers, device, cluster=one_node(machine))


def test_two_workers_cannot_share_a_gpu():
    with pytest.raises(ClusterError, match="each worker takes one GPU"):
        fit(2, gpus_per_trial=0.5, cluster=one_node(STATION))


def test_a_head_without_cores_takes_no_trial():
    found = fit(1, cluster=cluster(HEAD, SMALL), memory=MEMORY)
    assert (found.max_concurrent, found.cpus_per_trial, found.device) == (4, 1, "cpu")
    assert found.reason == (
        "cluster at head:6379, 1 node with 4 CPU cores: 4 trials at once with 1 core each"
    )


def test_a_cluster_of_a_head_alone_says_how_to_add_a_node():
    with pytest.raises(ClusterError, match=r"1 node and none offers a CPU core.*ray start --address"):
        fit(1, cluster=cluster(HEAD))


def test_cores_that_trials_leave_are_shared_but_never_across_nodes():
    found = fit(1, cluster=cluster(SMALL, LARGE), num_trials=3, memory=MEMORY)
    assert (found.max_concurrent, found.cpus_per_trial) == (3, 5)  # 16 // 5 = 3; the small one has none
    found = fit(1, cluster=cluster(SMALL, SMALL), num_trials=2, memory=MEMORY)
    assert (found.max_concurrent, found.cpus_per_trial) == (2, 4)


def test_no_node_takes_more_trials_than_its_memory_holds():
    tight = Machine(num_cpus=8, num_gpus=0, memory_gb=5)  # two trials of 2 GB
    found = fit(1, cluster=cluster(tight, LARGE), memory=MEMORY)
    assert tight.num_cpus // found.cpus_per_trial == 2
    assert found.max_concurrent == 2 + LARGE.num_cpus // found.cpus_per_trial
    assert found.memory_budget_gb == pytest.approx(5 / 2 - 1.5)


def test_the_workers_of_a_trial_may_stand_on_several_nodes():
    found = fit(8, cluster=cluster(HEAD, SMALL, SMALL), memory=MEMORY)
    assert (found.max_concurrent, found.cpus_per_trial, found.spans_nodes) == (1, 8, True)
    assert fit(2, cluster=cluster(HEAD, SMALL), memory=MEMORY).spans_nodes  # the head watches
    assert not fit(2, cluster=cluster(SMALL), memory=MEMORY).spans_nodes
    assert not fit(1, cluster=cluster(SMALL, SMALL), memory=MEMORY).spans_nodes


def test_more_workers_than_any_mix_of_nodes_has_are_refused():
    with pytest.raises(
        ClusterError, match=r"--workers 9: .* 2 nodes with 4 \+ 4 CPU cores, .*--workers 8 or"
    ):
        fit(9, cluster=cluster(HEAD, SMALL, SMALL), memory=MEMORY)
    with pytest.raises(ClusterError, match=r"--workers 5: .* 2 nodes with 2 \+ 2 GPUs, .*--workers 4 or"):
        fit(5, cluster=cluster(HEAD, WITH_GPU, WITH_GPU))


def test_gpus_are_used_where_there_are_some():
    found = fit(1, cluster=cluster(HEAD, LARGE, WITH_GPU, WITH_GPU))
    assert (found.max_concurrent, found.cpus_per_trial, found.gpus_per_trial, found.device) == (
        4,
        4,
        1,
        "cuda",
    )
    assert found.memory_budget_gb is None
    found = fit(2, cluster=cluster(HEAD, WITH_GPU, WITH_GPU))
    assert (found.max_concurrent, found.cpus_per_trial, found.gpus_per_trial) == (2, 8, 2)
    found = fit(1, cluster=cluster(WITH_GPU), gpus_per_trial=0.5)
    assert (found.max_concurrent, found.cpus_per_trial) == (4, 2)


def test_a_trial_that_has_to_stand_across_nodes_is_told():
    three = Machine(num_cpus=8, num_gpus=3, memory_gb=64)
    found = fit(2, cluster=cluster(three, three))
    assert found.max_concurrent == 3
    assert "3 trials at once with 2 GPU each, 1 of them across nodes" in found.reason
    assert "across" not in fit(2, cluster=cluster(WITH_GPU, WITH_GPU)).reason


def test_what_an_autoscaler_may_start_counts_where_workers_are_refused():
    coming = Cluster("head:6379", (Node("0", HEAD),), coming=(WITH_GPU, WITH_GPU))
    assert fit(4, cluster=coming).max_concurrent == 1
    with pytest.raises(ClusterError, match=r"at most 2 nodes with 2 \+ 2 GPUs \(2 of them not started yet\)"):
        fit(5, cluster=coming)


def test_on_what_is_left_a_trial_has_fewer_workers():
    assert most_workers(cluster(HEAD, SMALL, SMALL), 2, "cpu") == 2
    assert most_workers(cluster(HEAD, WITH_GPU), 4, "cuda") == 2
    assert most_workers(cluster(HEAD, SMALL), 4, "cuda") == 0  # it began on GPUs, and stays there
    assert most_workers(cluster(HEAD), 1, "cpu") == 0


def test_small_trials_share_the_gpus_of_a_cluster_where_their_memory_is_known():
    a10 = Machine(num_cpus=8, num_gpus=1, memory_gb=32, gpu_memory_gb=22)
    memory = TrialMemory(resident=1.5, graphs=5, least=0.5)
    found = fit(1, cluster=cluster(HEAD, a10, a10), gpus_per_trial="auto", memory=memory)
    assert (found.max_concurrent, found.gpus_per_trial) == (6, 0.3333)
    assert found.reason.endswith(": 6 trials at once with 0.3333 GPU each (gpus_per_trial=auto)")
    assert found.memory_budget_gb == pytest.approx(22 * 0.9 / 3 - 1.5)
    unknown = fit(1, cluster=cluster(HEAD, WITH_GPU), gpus_per_trial="auto", memory=memory)
    assert (unknown.gpus_per_trial, unknown.memory_budget_gb) == (1, None)
    assert "the memory of a GPU is not known" in unknown.reason


def test_a_gpu_needs_a_core_beside_it():
    found = fit(1, cluster=cluster(Machine(num_cpus=1, num_gpus=4, memory_gb=64)))
    assert found.max_concurrent == 1


def test_cuda_without_any_gpu_is_refused():
    with pytest.raises(ClusterError, match=r"no GPU .*--set execution.device=cpu"):
        fit(1, "cuda", cluster=cluster(HEAD, SMALL))
    assert fit(1, "cpu", cluster=cluster(WITH_GPU)).device == "cpu"


def test_on_nodes_with_too_little_memory_one_trial_runs_rather_than_many():
    tight = Machine(num_cpus=32, num_gpus=0, memory_gb=1)
    found = fit(2, cluster=cluster(HEAD, tight), memory=MEMORY)
    assert (found.max_concurrent, found.cpus_per_trial) == (1, 32)
    assert found.reason.endswith(
        "1 trial at once with 2 workers of 16 cores each, limited by the memory of a trial"
    )


def test_on_gpus_too_cores_that_trials_leave_are_shared():
    found = fit(1, cluster=cluster(HEAD, WITH_GPU, WITH_GPU), num_trials=2)
    assert (found.max_concurrent, found.cpus_per_trial, found.gpus_per_trial) == (2, 8, 1)
