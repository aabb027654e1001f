"""Writes the list of images that cannot be decoded, in the form that `data.exclude` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.results.private_files import check_replaceable, write_private

HEADER = "# images that cannot be used, written by `data check --write-bad`"
OPTION = "--write-bad"


def check_bad_file(path: Path) -> None:
    """Checks that the list can be written, before any image is decoded. Raises ConfigError if not."""
    check_replaceable(path, option=OPTION, begins_with=HEADER)


def write_bad_file(path: Path, reasons: Mapping[str, str]) -> int:
    """Adds images to the list, each with its reason, and returns how many were new.

    A listed image stays listed, because `data.exclude` may name this file: then the image was not read.

    Args:
        path: file of the list.
        reasons: path of the image relative to `data.root` → why it cannot be used.
    """
    check_bad_file(path)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else [HEADER]
    listed = set(lines)
    new = [name for name in reasons if name not in listed]
    for name in new:
        lines += [f"# {' '.join(reasons[name].split())}", name]
    write_private(path, "\n".join([*lines, ""]), option=OPTION, begins_with=HEADER)
    return len(new)
