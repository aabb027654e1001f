import ast
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from ray._private import services

from orchestrator.cluster.gcs_client import find_head
from trainables.errors import ClusterError

PROJECT = Path(__file__).parents[3]
INTERNAL = ("ray._private", "ray._raylet", "ray.autoscaler", "ray.core", "ray.dashboard")


def imports_of(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return plain | {f"{node.module}.{alias.name}" for node in named for alias in node.names}


def test_one_module_alone_reaches_what_ray_keeps_private():
    paths = [path for room in ("orchestrator", "trainables") for path in (PROJECT / room).rglob("*.py")]
    reach = {path.name for path in paths for name in imports_of(path) if f"{name}.".startswith(INTERNAL)}
    assert reach == {"ray_internals.py"}


def test_rays_minor_version_is_pinned_as_private_interfaces_change_with_it():
    found = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    ray = next(wanted for line in found if (wanted := Requirement(line)).name == "ray")
    assert "2.60.5" in ray.specifier
    assert "2.61.0" not in ray.specifier


@pytest.mark.parametrize(
    ("running", "expected"),
    [
        (["127.0.0.1:6379"], "127.0.0.1:6379"),
        (["127.0.0.1:6379", "127.0.0.1:1"], "127.0.0.1:1"),
        (
            ["127.0.0.1:6379", "127.0.0.1:6380"],
            "several Ray clusters run on this machine: 127.0.0.1:6379, 127.0.0.1:6380",
        ),
        ([], "no Ray cluster runs on this machine"),
    ],
)
def test_auto_is_a_ray_that_runs_whatever_address_another_left(
    monkeypatch: pytest.MonkeyPatch, running: list[str], expected: str
):
    """`rays_apart` has left 127.0.0.1:1, as the last Ray that was started."""
    assert services.find_bootstrap_address(None) == "127.0.0.1:1"
    monkeypatch.setattr(services, "find_gcs_addresses", lambda: frozenset(running))
    if expected in running:
        assert find_head("auto") == expected
    else:
        with pytest.raises(ClusterError, match=f"--address auto: {expected}"):
            find_head("auto")


def test_an_address_in_the_environment_is_meant_by_auto(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert find_head("auto") == "10.0.0.1:6379"
