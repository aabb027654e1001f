import pytest

from orchestrator.cluster.nodes import Cluster, Node, cluster_address
from orchestrator.cluster.resources import Machine
from trainables.errors import ConfigError

HEAD = Machine(num_cpus=0, num_gpus=0, memory_gb=8)
SMALL = Machine(num_cpus=4, num_gpus=0, memory_gb=16)
LARGE = Machine(num_cpus=16, num_gpus=0, memory_gb=64)
WITH_GPU = Machine(num_cpus=8, num_gpus=2, memory_gb=64)


def cluster(*machines: Machine) -> Cluster:
    return Cluster("head:6379", tuple(Node(str(number), machine) for number, machine in enumerate(machines)))


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
    with pytest.raises(ConfigError, match=r"needs the address of its head.*orchestrator submit"):
        cluster_address(address)


@pytest.mark.parametrize("address", ["head", "head:99999", ":6379", "head:x", "os:system://1", "a b:1"])
def test_no_address_at_all(address: str):
    with pytest.raises(ConfigError, match="use HOST:PORT of the head"):
        cluster_address(address)


def test_images_are_decoded_over_nodes_only_where_several_are_there():
    assert cluster(HEAD, SMALL, LARGE).is_spread
    assert not cluster(HEAD, SMALL).is_spread
    assert not Cluster("head:6379", cluster(HEAD).nodes, coming=(WITH_GPU, WITH_GPU)).is_spread
