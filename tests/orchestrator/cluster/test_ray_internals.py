import ast
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

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
