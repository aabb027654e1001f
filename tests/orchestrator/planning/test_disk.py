import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from orchestrator.cli.app import execute
from orchestrator.planning.disk import DiskEstimate

GB = 2**30
Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("total", "words"), [(270 * GB, "270 GB"), (int(2.4 * GB), "2.4 GB"), (GB // 7, "0.14 GB"), (0, "0 GB")]
)
def test_bytes_are_written_for_people(total: int, words: str):
    assert str(DiskEstimate(0, total, 74 * GB)) == f"at most {words}, 74 GB free"


def test_a_sweep_that_fits_lacks_nothing():
    assert DiskEstimate(activations=GB, results=GB, free=2 * GB).shortage() == ""


def test_a_disk_that_is_too_small_is_told_with_what_to_change(home: Path):
    found = DiskEstimate(activations=258 * GB, results=12 * GB, free=74 * GB).shortage()
    assert found.startswith("disk: the sweep may write 270 GB, and ")
    assert " has 74 GB free; free 196 GB, or set CLIP_ORCHESTRATOR_HOME to a folder on a larger" in found
    assert found.endswith("cache_budget_gb=0): the sweep then writes at most 12 GB, and trials take longer")
    assert "cache_budget_gb" not in DiskEstimate(258 * GB, 80 * GB, 74 * GB).shortage()


def test_a_plan_without_room_on_the_disk_ends_with_status_2_and_is_not_written(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(GB, GB - 1000, 1000))
    arguments = ["sweep", "demo", "--plan", "--no-timing"]
    assert execute([*arguments, "--out", str(tmp_path / "plan.json")]) == 2
    said = capsys.readouterr()
    assert "disk: the sweep may write 0.1" in said.err
    assert "at most 0.1" in said.out
    assert not (tmp_path / "plan.json").exists()
