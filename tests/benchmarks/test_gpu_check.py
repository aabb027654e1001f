"""The GPU check: every line in small on a CPU, its exit status, and what must hold on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu_check
import pytest
import torch
from gpu_lines.row import Line, Row, Settings

SCRIPT = Path(gpu_check.__file__)
NAMES = [line.name for line in gpu_check.LINES]
PROCESSES = ["two_processes", "process_group"]
ALONE = [name for name in NAMES if name not in PROCESSES]
EQUIVALENCES = ["losses", "curve", "memory", "bfloat16", "out_of_memory", "process_group"]
Rows = dict[str, dict[str, Any]]


def run(*options: str) -> tuple[int, str, Rows]:
    """Returns exit status, messages and rows of the check in a process of its own, from a plain checkout."""
    command = [sys.executable, str(SCRIPT), *options]
    own = os.environ | {"PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=550)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, done.stderr, {row["name"]: row for row in rows}


def check(row: dict[str, Any]) -> None:
    assert row["ok"] is True
    assert "error" not in row
    assert row["seconds"] > 0
    assert row["bound"]
    assert row["bounds"]
    assert all(bound["ok"] for bound in row["bounds"].values())
    assert row["bounds"].keys() <= row["measured"].keys()


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The lines that need no other processes, whose imports take as long as all the rest."""
    out = tmp_path_factory.mktemp("gpu-check") / "rows.jsonl"
    status, messages, rows = run("--device", "cpu", "--small", "--out", str(out), "--lines", *ALONE)
    assert [json.loads(line) for line in out.read_text().splitlines()] == list(rows.values())
    assert list(rows) == ALONE, messages
    assert status == 0, [row for row in rows.values() if not row["ok"]]
    return rows


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ALONE)
def test_a_line_runs_on_a_cpu(on_cpu: Rows, name: str) -> None:
    check(on_cpu[name])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_lines_that_start_processes_run_on_a_cpu() -> None:
    status, messages, rows = run("--device", "cpu", "--small", "--lines", *PROCESSES)
    assert status == 0, (rows, messages)
    assert list(rows) == PROCESSES
    for row in rows.values():
        check(row)
    assert rows["process_group"]["measured"]["ranks"] == 2


def test_what_is_measured_is_no_constant(on_cpu: Rows) -> None:
    measured = {name: row["measured"] for name, row in on_cpu.items()}
    assert measured["environment"]["versions"]["torch"] == torch.__version__
    assert 0 < measured["curve"]["vit_m_7"] < 1e-4
    assert 0.99 < measured["bfloat16"]["gradient_cosine"] < 1
    assert measured["memory"]["mib"]["256"] == pytest.approx(measured["memory"]["mib"]["64"], rel=0.1)
    assert set(measured["step_time"]["seconds"]) >= {"gradient_caching", "open_clip", "ours", "ours_bfloat16"}
    assert set(measured["fine_tune"]["images_per_second"]) >= {"cached_dropout_0", "live_dropout_0.1"}
    pieces = measured["out_of_memory"]["images_at_a_time"]
    assert pieces[-1] < pieces[0]


def test_a_line_that_fails_leaves_what_it_measured_and_does_not_stop_the_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def crashes(settings: Settings, row: Row) -> None:
        row.require("first", 1.0, at_most=2.0)
        raise RuntimeError("CUDA error: an illegal memory access\nand much more")

    def is_out_of_bounds(settings: Settings, row: Row) -> None:
        row.require("second", float("nan"), at_most=2.0)

    def is_fine(settings: Settings, row: Row) -> None:
        row.require("third", 3, equals=3)

    lines = [Line("a", "a", crashes), Line("b", "b", is_out_of_bounds), Line("c", "c", is_fine)]
    monkeypatch.setattr(gpu_check, "LINES", lines)
    assert gpu_check.main(["--device", "cpu", "--out", str(tmp_path / "rows")]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["ok"] for row in rows] == [False, False, True]
    assert rows[0]["measured"] == {"first": 1.0}
    assert rows[0]["error"] == "RuntimeError: CUDA error: an illegal memory access"
    assert rows[1]["bounds"]["second"] == {"at_most": 2.0, "ok": False}
    monkeypatch.setattr(gpu_check, "LINES", lines[2:])
    assert gpu_check.main(["--device", "cpu"]) == 0


def test_quick_leaves_lines_out_and_keeps_the_order() -> None:
    quick = [line.name for line in gpu_check.LINES if line.is_quick]
    assert quick == [name for name in NAMES if name in quick]
    assert set(NAMES) - set(quick) == {"fine_tune", "two_processes"}
    settings = Settings(torch.device("cpu"), is_quick=True)
    assert settings.choose(10, quick=5, small=1) == 5
    assert settings.choose(10, small=1) == 10


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--device", "cuda"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "gpu_check: torch finds no GPU here; use --device cpu --small\n"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", EQUIVALENCES)
def test_an_equivalence_holds_on_a_gpu(name: str) -> None:
    extent = "--quick" if name == "out_of_memory" else "--small"  # small shapes fit everywhere
    status, messages, rows = run("--device", "cuda", extent, "--lines", name)
    assert status == 0, (rows, messages)
    assert rows[name]["ok"]
