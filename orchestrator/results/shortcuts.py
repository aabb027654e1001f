"""Finds controls that score nearly as well as a probe. The probe's score then says little about lungs."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from orchestrator.results.board import Control, Row
from trainables.config import Task
from trainables.scoring.metric_names import BASELINES, PROBES, title

NEAR = 0.03  # a control that is this close to a probe explains most of the probe's score

LABELS: dict[Task, str] = {"multiclass": "Classes", "multilabel": "Findings"}


def find_shortcuts(rows: Sequence[Row], controls: Sequence[Control], metric: str, task: Task) -> str | None:
    """Returns a warning if a control nearly reaches the best probe or the best frozen probe, or None.

    Compares scores on val and on test. If no encoder was probed, baselines are used instead of probes.
    """
    rows = [row for row in rows if not row.breaches]
    probes, kind = [row for row in rows if row.system in PROBES], "probe"
    if not probes:
        probes, kind = [row for row in rows if row.system in BASELINES], "baseline"
    on_test = {"test_accuracy": "accuracy", "test_auroc": "macro_auroc"}
    found = [
        _near(probes, controls, "objective", f"{metric} on val", kind),
        *(_near(probes, controls, field, f"{name} on test", kind) for field, name in on_test.items()),
    ]
    if not any(found):
        return None
    return (
        f"shortcut: {'; '.join(filter(None, found))}. "
        f"{LABELS[task]} can be predicted without seeing lungs; "
        "check sources and acquisition before you trust a row."
    )


def _near(rows: Sequence[Row], controls: Sequence[Control], field: str, name: str, kind: str) -> str | None:
    """Returns a phrase about the best control by the score `field`, if it nearly reaches a row."""
    scored = [(each.value, c.system) for c in controls if (each := getattr(c, field))]
    values = [(each.value, row.method == "none") for row in rows if (each := getattr(row, field))]
    best = {f"best {kind}": [value for value, _ in values]}
    best[f"best frozen {kind}"] = [value for value, is_frozen in values if is_frozen]
    value, system = max(scored, default=(-inf, ""))
    for who, of_who in best.items():
        if of_who and value >= max(of_who) - NEAR:
            return f"the control '{title(system)}' scores {value:.3f} {name}, the {who} {max(of_who):.3f}"
    return None
