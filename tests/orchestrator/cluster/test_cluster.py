import pytest

from orchestrator.cluster.cluster import Cluster, Node, cluster_address, fit_cluster, most_workers
from orchestrator.cluster.resources import Machine, TrialMemory
from trainables.errors import ClusterError, ConfigError

HEAD = Machine(num_cpus=0, num_gpus=0, memory_gb=8)
SMALL = Machine(num_cpus=4, num_gpus=0, memory_gb=16)
LARGE = Machine(num_cpus=16, num_gpus=0, memory_gb=64)
WITH_GPU = Machine(num_cpus=8, num_gpus=2, memory_gb=64)
MEMORY = TrialMemory(resident=1.5, graphs=2, least=0.5)


def cluster(*machines: Machine) -> Cluster:
    return Cluster("head:6379", tuple(Node(str(number), machine) for number, machine in enumerate(machines)))


def test_a_head_without_cores_takes_no_trial():
    found = fit_cluster(cluster(HEAD, SMALL), 1, memory=MEMORY)
    assert (found.max_concurrent, found.cpus_per_trial, found.device) == (4, 1, "cpu")
    assert found.reason == (
        "cluster at head:6379, 1 node with 4 CPU cores: 4 trials at once with 1 core each"
    )


def test_a_cluster_of_a_head_alone_says_how_to_add_a_node():
    with pytest.raises(ClusterError, match=r"1 node and none offers a CPU core.*ray start --address"):
        fit_cluster(cluster(HEAD), 1)


def test_cores_that_trials_leave_are_shared_but_never_across_nodes():
    found = fit_cluster(cluster(SMALL, LARGE), 1, num_trials=3, memory=MEMORY)
    assert (found.max_concurrent, found.cpus_per_trial) == (3, 5)  # 16 // 5 = 3; the small one has none
    found = fit_cluster(cluster(SMALL, SMALL), 1, num_trials=2, memory=MEMORY)
    assert (found.max_concurrent, found.cpus_per_trial) == (2, 4)


def test_no_node_takes_more_trials_than_its_memory_holds():
    tight = Machine(num_cpus=8, num_gpus=0, memory_gb=5)  # two trials of 2 GB
    found = fit_cluster(cluster(tight, LARGE), 1, memory=MEMORY)
    assert tight.num_cpus // found.cpus_per_trial == 2
    assert found.max_concurrent == 2 + LARGE.num_cpus // found.cpus_per_trial
    assert found.memory_budget_gb == pytest.approx(5 / 2 - 1.5)


def test_the_workers_of_a_trial_may_stand_on_several_nodes():
    found = fit_cluster(cluster(HEAD, SMALL, SMALL), 8, memory=MEMORY)
    assert (found.max_concurrent, found.cpus_per_trial, found.spans_nodes) == (1, 8, True)
    assert fit_cluster(cluster(HEAD, SMALL), 2, memory=MEMORY).spans_nodes  # the head watches
    assert not fit_cluster(cluster(SMALL), 2, memory=MEMORY).spans_nodes
    assert not fit_cluster(cluster(SMALL, SMALL), 1, memory=MEMORY).spans_nodes


def test_more_workers_than_any_mix_of_nodes_has_are_refused():
    with pytest.raises(
        ClusterError, match=r"--workers 9: .* 2 nodes with 4 \+ 4 CPU cores, .*--workers 8 or"
    ):
        fit_cluster(cluster(HEAD, SMALL, SMALL), 9, memory=MEMORY)
    with pytest.raises(ClusterError, match=r"--workers 5: .* 2 nodes with 2 \+ 2 GPUs, .*--workers 4 or"):
        fit_cluster(cluster(HEAD, WITH_GPU, WITH_GPU), 5)


def test_gpus_are_used_where_there_are_some():
    found = fit_cluster(cluster(HEAD, LARGE, WITH_GPU, WITH_GPU), 1)
    assert (found.max_concurrent, found.cpus_per_trial, found.gpus_per_trial, found.device) == (
        4,
        4,
        1,
        "cuda",
    )
    assert found.memory_budget_gb is None
    found = fit_cluster(cluster(HEAD, WITH_GPU, WITH_GPU), 2)
    assert (found.max_concurrent, found.cpus_per_trial, found.gpus_per_trial) == (2, 8, 2)
    found = fit_cluster(cluster(WITH_GPU), 1, gpus_per_trial=0.5)
    assert (found.max_concurrent, found.cpus_per_trial) == (4, 2)


def test_a_trial_that_has_to_stand_across_nodes_is_told():
    three = Machine(num_cpus=8, num_gpus=3, memory_gb=64)
    found = fit_cluster(cluster(three, three), 2)
    assert found.max_concurrent == 3
    assert "3 trials at once with 2 GPU each, 1 of them across nodes" in found.reason
    assert "across" not in fit_cluster(cluster(WITH_GPU, WITH_GPU), 2).reason


def test_what_an_autoscaler_may_start_counts_where_workers_are_refused():
    coming = Cluster("head:6379", (Node("0", HEAD),), coming=(WITH_GPU, WITH_GPU))
    assert fit_cluster(coming, 4).max_concurrent == 1
    with pytest.raises(ClusterError, match=r"at most 2 nodes with 2 \+ 2 GPUs \(2 of them to come\)"):
        fit_cluster(coming, 5)


def test_on_what_is_left_a_trial_has_fewer_workers():
    assert most_workers(cluster(HEAD, SMALL, SMALL), 2, "cpu") == 2
    assert most_workers(cluster(HEAD, WITH_GPU), 4, "cuda") == 2
    assert most_workers(cluster(HEAD, SMALL), 4, "cuda") == 0  # it began on GPUs, and stays there
    assert most_workers(cluster(HEAD), 1, "cpu") == 0


def test_small_trials_share_the_gpus_of_a_cluster_where_their_memory_is_known():
    a10 = Machine(num_cpus=8, num_gpus=1, memory_gb=32, gpu_memory_gb=22)
    memory = TrialMemory(resident=1.5, graphs=5, least=0.5)
    found = fit_cluster(cluster(HEAD, a10, a10), 1, gpus_per_trial="auto", memory=memory)
    assert (found.max_concurrent, found.gpus_per_trial) == (6, 0.3333)
    assert "as each takes at most 6.5 of its 22.0 GB (gpus_per_trial=auto)" in found.reason
    assert found.memory_budget_gb == pytest.approx(22 * 0.9 / 3 - 1.5)
    unknown = fit_cluster(cluster(HEAD, WITH_GPU), 1, gpus_per_trial="auto", memory=memory)
    assert (unknown.gpus_per_trial, unknown.memory_budget_gb) == (1, None)
    assert "the memory of a GPU is not known" in unknown.reason


def test_a_gpu_needs_a_core_beside_it():
    found = fit_cluster(cluster(Machine(num_cpus=1, num_gpus=4, memory_gb=64)), 1)
    assert found.max_concurrent == 1


def test_cuda_without_any_gpu_is_refused():
    with pytest.raises(ClusterError, match=r"no GPU .*--set execution.device=cpu"):
        fit_cluster(cluster(HEAD, SMALL), 1, "cuda")
    assert fit_cluster(cluster(WITH_GPU), 1, "cpu").device == "cpu"


@pytest.mark.parametrize("address", ["head:6379", "10.0.0.1:6379", "[::1]:6379", "auto"])
def test_addresses_of_a_head(address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "other:1")
    assert cluster_address(address) == address  # what is said goes before the environment
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster_address(None) == address  # as Ray sets it for a job


@pytest.mark.parametrize("address", ["", "local"])
def test_a_ray_of_our_own_is_the_default(address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "other:1")
    assert cluster_address(address) is None


@pytest.mark.parametrize("address", ["http://head:8265", "ray://head:10001", "https://head"])
def test_addresses_for_submitting_say_so(address: str):
    with pytest.raises(ConfigError, match=r"takes the address of its head.*orchestrator submit"):
        cluster_address(address)


@pytest.mark.parametrize("address", ["head", "head:99999", ":6379", "head:x", "os:system://1", "a b:1"])
def test_no_address_at_all(address: str):
    with pytest.raises(ConfigError, match="use HOST:PORT of the head"):
        cluster_address(address)


def test_images_are_decoded_over_nodes_only_where_several_are_there():
    assert cluster(HEAD, SMALL, LARGE).is_spread
    assert not cluster(HEAD, SMALL).is_spread
    assert not Cluster("head:6379", cluster(HEAD).nodes, coming=(WITH_GPU, WITH_GPU)).is_spread
