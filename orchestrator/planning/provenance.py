"""Records the origin of a result: code, package versions, machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from orchestrator.cluster.resources import Machine
from orchestrator.storage.paths import PROJECT
from trainables.artifacts import file_sha256, fingerprint

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "timm",
    "open_clip_torch",
    "scikit-learn",
    "numpy",
    "ray",
    "optuna",
    "mlflow",
)


def git() -> dict[str, Any]:
    """Returns the commit of this code, and whether files have changed since; empty outside a Git checkout."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {}
    return {"commit": commit.strip(), "is_dirty": bool((_git("status", "--porcelain") or "").strip())}


def code_fingerprint() -> str:
    """Returns the fingerprint of `trainables/`, the code that computes all numbers."""
    science = PROJECT / "trainables"
    return fingerprint(
        [(path.relative_to(science), file_sha256(path)) for path in sorted(science.rglob("*.py"))]
    )


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that can change a number."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware(machine: Machine) -> dict[str, Any]:
    """Returns the system, processor, GPUs and memory of this machine, without its name."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "num_cpus": machine.num_cpus,
        "num_gpus": machine.num_gpus,
        "memory_gb": round(machine.memory_gb, 1),
    }


def _git(*arguments: str) -> str | None:
    if not (PROJECT / ".git").exists():  # an installed package: its folder is not our checkout
        return None
    command = ["git", "-C", os.fspath(PROJECT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or "unknown"
