"""The list of sweeps, from their ledgers."""

from pathlib import Path

from ledger_history import OBJECTIVE, end, finish_demo, place, start

from orchestrator.results.sweep_list import list_sweeps
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.paths import sweep_folder
from orchestrator.storage.sweeps import size_bytes


def test_lists_date_state_best_score_and_size(home: Path):
    for name in ("whole", "cut", "running", "broken"):
        with Ledger(sweep_folder(name)) as ledger:
            start(ledger, name)
            if name == "whole":
                place(ledger, "frozen")
                finish_demo(ledger, sweep_folder(name))
            elif name == "cut":
                place(ledger, "frozen")
                end(ledger, sweep_folder(name), "frozen", 0.7)
    damaged = sweep_folder("broken") / "ledger" / "segment-00000.jsonl"
    damaged.write_bytes(damaged.read_bytes().replace(b"c0ffee", b"c0ffed"))
    with Ledger(sweep_folder("running")):
        found = {record.name: record for record in list_sweeps()}
    states = {name: record.state for name, record in found.items()}
    assert states == {
        "whole": "complete", "cut": "interrupted", "running": "running", "broken": "damaged",
    }  # fmt: skip
    scores = {name: record.best_score for name, record in found.items()}
    assert scores == {"whole": 0.9, "cut": 0.7, "running": None, "broken": None}
    assert found["whole"].objective == OBJECTIVE
    assert found["whole"].started is not None
    assert found["whole"].started[:10] == found["whole"].last_used[:10]
    assert found["broken"].started is None
    assert found["cut"].size_bytes == size_bytes(sweep_folder("cut")) > 1000


def test_an_empty_home_has_no_sweeps(home: Path):
    assert list_sweeps() == []
