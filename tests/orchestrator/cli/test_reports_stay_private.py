"""A sweep on reports leaves no word of them: not in MLflow, the ledger, logs, pages or folders of models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from report_table import write_report_table
from sweep_process import plain_environment

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]
WORD = "zebrafishlike"
TINY = ("encoder.image_size=32", "num_epochs=2", "data.num_views=1", "search.num_trials=1", "search.seeds=1")
REPORTS = ("data.dataset=manifest", "data.captions=report", "data.report_sentences=2")


def files_with(word: str, folder: Path) -> Iterator[Path]:
    """Yields the files that contain a word, also in compressed columns of a table."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        text = (
            str(pq.read_table(path).to_pydict()).encode() if path.suffix == ".parquet" else path.read_bytes()
        )
        if word.encode() in text.lower():
            yield path


def test_no_file_of_a_finished_sweep_has_a_word_of_a_report(tmp_path: Path) -> None:
    root, home = tmp_path / "own", tmp_path / "home"
    root.mkdir()
    write_report_table(
        root, lambda i: f"FINDINGS: {WORD.title()} sign {i}. IMPRESSION: No {WORD} sign {i % 7}."
    )
    settings = [*REPORTS, f"data.root={root}", *TINY]
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "sweep", "lora", "--name", "own", "--json"]
        + [part for setting in settings for part in ("--set", setting)],
        env=plain_environment() | {"CLIP_ORCHESTRATOR_HOME": str(home)},
        capture_output=True,
        text=True,
        cwd=os.fspath(Path(__file__).parents[3]),
    )
    assert done.returncode == 0, done.stderr
    board = json.loads(done.stdout)
    assert any("captions from reports: 20 of 20 train images" in note for note in board["data_notes"])
    assert list(files_with("image_to_report/recall_at_5", home))  # retrieval is a metric in the ledger
    assert WORD not in (done.stdout + done.stderr).lower()
    assert list(files_with(WORD, root)) == [root / "manifest.csv"]
    assert list(files_with(WORD, home)) == []
