"""Folders that are built once: who builds them, and who waits."""

from __future__ import annotations

from pathlib import Path

from trainables.artifacts import _lock_of, build_once, build_unless_busy, is_whole, locked


def test_a_folder_that_another_process_builds_is_left_to_it(tmp_path: Path) -> None:
    folder, built = tmp_path / "view", list[Path]()

    def build(aside: Path) -> None:
        (aside / "file").write_text("content")
        built.append(aside)

    with locked(_lock_of(folder)):
        build_unless_busy(folder, build)
    assert (built, is_whole(folder)) == ([], False)
    build_unless_busy(folder, build)
    build_unless_busy(folder, build)
    assert build_once(folder, build) == folder
    assert len(built) == 1
    assert is_whole(folder)
