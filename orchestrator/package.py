"""What of this project a job takes along: code, recipes and what pins them. No data, no history."""

from __future__ import annotations

import shutil
from pathlib import Path

from trainables.errors import ConfigError

PROJECT = Path(__file__).resolve().parents[1]
FOLDERS = ("orchestrator", "trainables", "search_spaces")
FILES = ("pyproject.toml", "constraints.txt")
KINDS = (".py", ".json", ".yaml", ".toml", ".txt")
MAX_BYTES = 20 * 2**20
"""The code takes 1 MB; Ray keeps packages in the memory of the head."""


def pack(space: Path | None, target: Path, *, project: Path = PROJECT) -> str | None:
    """Copies what a job needs into a folder; returns how a search space is named there.

    Args:
        space: a file, wherever it lies; none = the job takes one of `search_spaces/`, or none.
        target: an empty folder.
        project: where this code lies.

    Raises:
        ConfigError: it takes too much, and what is largest.
    """
    found = [path for name in FOLDERS for path in sorted((project / name).rglob("*")) if _is_taken(path)]
    found += [project / name for name in FILES if (project / name).is_file()]
    check_size(found, project)
    for path in found:
        _copy(path, target / path.relative_to(project))
    if space is None:
        return None
    name = f"search_spaces/{space.name}"
    _copy(space, target / name)
    return name


def check_size(files: list[Path], project: Path) -> None:
    """Raises ConfigError where files are too many bytes for a head's memory."""
    sizes = {path: path.stat().st_size for path in files}
    if (total := sum(sizes.values())) > MAX_BYTES:
        largest = max(files, key=lambda path: sizes[path])
        raise ConfigError(
            f"a job would take {total / 2**20:.0f} MB along, and at most {MAX_BYTES / 2**20:.0f} are "
            f"allowed: the largest is {largest.relative_to(project)} ({sizes[largest] / 2**20:.0f} MB); move "
            f"it out of {', '.join(FOLDERS)}: data belong where the cluster reads them"
        )


def _is_taken(path: Path) -> bool:
    return path.suffix in KINDS and path.is_file() and not path.is_symlink()


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
