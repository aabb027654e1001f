"""The sentences below a leaderboard: how rows were selected, what the marks mean, what to doubt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from orchestrator.results.board import DIFFERENCES, Leaderboard
from orchestrator.results.board_columns import has_several_frozen, is_uncertain, second_title
from orchestrator.results.finding_table import is_reversed
from trainables.config import Task
from trainables.scoring.metric_names import ZERO_SHOT, is_few_shot, title
from trainables.shell import command

MAX_ROWS = 30
COMPARED: dict[Task, tuple[str, str]] = {
    "multiclass": ("accuracy", "the probe's error rate"),
    "multilabel": ("macro AUROC", "(1 − the probe's macro AUROC)"),
}
"""The metric of the differences on test, and what a gain is divided by, by task."""
SHOTS: dict[Task, str] = {
    "multiclass": "k labelled images per class",
    "multilabel": "k positive and k negative images of each finding",
}
"""What a few-shot probe is trained on, by task."""
BY_IMAGE = "by image, not by patient: the data set has no patient ids"
"""What is said of intervals where no patients are known."""


def captions(board: Leaderboard) -> Iterator[str]:
    """Yields the sentences below a leaderboard."""
    unit = BY_IMAGE if board.by_image else "by patient"
    yield (
        f"Ranked by {board.metric} on val. The best trials are chosen by {board.objective}. "
        f"Brackets: 95 % bootstrap intervals {unit}. Zero-shot (unseen): prompts not used in training."
    )
    yield from data_caption(board.data_notes)
    yield from _of_averages(board)
    yield from _of_test(board)
    yield from _of_findings(board)
    yield from _of_seeds(board)
    yield from _of_systems(board)
    yield from _of_marks(board)
    if len(board.rows) > MAX_ROWS:
        yield f"The best {MAX_ROWS} of {len(board.rows)} rows and the baselines are shown. --json lists all."
    if any(absent.status == "unavailable" for absent in board.absent):
        again = command(f"sweep --resume {board.sweep} --retry-failed")
        yield f"Unavailable rows have no score. After you have installed their weights, run: {again}"
    yield from board.notes
    yield from _of_polarity(board)
    if board.shortcut:
        yield board.shortcut


def data_caption(notes: Sequence[str]) -> Iterator[str]:
    """Yields one sentence with all notes about the data, or nothing without notes."""
    if notes:
        yield f"Data: {'; '.join(notes)}."


def _of_test(board: Leaderboard) -> Iterator[str]:
    if not board.test_opened:
        yield "Test labels: not opened."
        return
    metric, error = COMPARED[board.task]
    yield (
        f"Test labels opened once, {board.test_opened[:16].replace('T', ' ')} UTC. Over frozen: {metric} "
        f"minus that of the strongest frozen probe, paired. Error cut: this gain / {error}."
    )
    if has_several_frozen(board):
        yield f"Over itself: {metric} minus that of the same system of the same encoder, frozen."
    if any(row.over_first for row in board.rows):
        yield f"Over #1: {metric} minus that of the row that ranked first on val."
    tested = [
        [each for row in board.rows if (each := getattr(row, column)) and each.p is not None]
        for column in DIFFERENCES
    ]
    if most := max(map(len, tested)):
        mark = " ≈ after a difference: it may be 0." if any(map(is_uncertain, chain(*tested))) else ""
        yield f"The differences in a column (at most {most}) are tested together at 5 % (Holm).{mark}"


def _of_averages(board: Leaderboard) -> Iterator[str]:
    """Yields what macro averages of findings cover."""
    if board.task == "multiclass":
        return
    yield (
        f"AUROC: macro AUROC over {len(board.findings)} findings (No Finding is not among them). "
        "Mean AP: mean average precision over the same findings."
    )


def _of_findings(board: Leaderboard) -> Iterator[str]:
    """Yields what the table of findings shows."""
    if board.task == "multiclass":
        return
    if board.finding_table is None:
        yield "The scores of each finding on val: findings.csv, among the artifacts of each trial in MLflow."
        return
    yield (
        "Findings: AUROC on test of the first adapted row, the strongest frozen probe, the first zero-shot "
        "row and a control. Images: positive / with a known label. No Finding is not part of any average."
    )
    if any(row.num_unknown for row in board.finding_table.rows):
        yield "+n ?: n more images whose label is unknown. They count nowhere."
    if any(any(row.is_reversed) for row in board.finding_table.rows):
        yield (
            "polarity?: the AUROC of these prompts is far below .5, so they probably say the contrary. "
            f"Read them: {command('data prompts')}"
        )


def _of_seeds(board: Leaderboard) -> Iterator[str]:
    unit = "images" if board.by_image else "patients"
    if board.num_seeds > 1:
        yield (
            f"(×{board.num_seeds}): mean over {board.num_seeds} training seeds. On val, the brackets "
            f"of these rows are 95 % t-intervals over seeds, not {unit}. Arms without all seeds rank below."
        )
    if board.is_confirmed:
        yield "The first seed also selected these trials, so their means are slightly too high."


def _of_systems(board: Leaderboard) -> Iterator[str]:
    few_shot = [row for row in board.rows if is_few_shot(row.system)]
    if few_shot:
        each = "" if board.by_image else ", each of another patient"
        yield (
            f"k-shot: probes on {SHOTS[board.task]}{each}. Values are means over "
            "draws; on val, brackets are 95 % t-intervals over draws. k-shot probes are not tuned on val."
        )
    if any(row.method != "none" for row in few_shot):
        yield "k-shot of an adapted encoder: the adapter was trained on all labels of train, the probe on k."
    if any(row.system == "baseline_from_scratch" for row in board.rows):
        yield "From scratch: a classifier that started from random weights, not from ImageNet's."


def _of_polarity(board: Leaderboard) -> Iterator[str]:
    """Yields a warning if prompts score below chance: a negation is often read as what it negates."""
    for row in board.rows:
        on_val = row.objective if board.metric == "macro_auroc" else None
        split, auroc = ("test", row.test_auroc) if row.test_auroc else ("val", on_val)
        if row.system in ZERO_SHOT and auroc is not None and is_reversed(auroc):
            yield (
                f"polarity: {row.name}, {title(row.system)}, scores {auroc.value:.3f} macro AUROC on "
                f"{split}. Its prompts are probably reversed; read them: {command('data prompts')}"
            )
            return  # other rows of the same prompts say the same


def _of_marks(board: Leaderboard) -> Iterator[str]:
    if any(row.differs is False for row in board.rows):
        yield "≈ after a score: it may equal that of the first row; the interval over their seeds contains 0."
    if any(row.is_on_front for row in board.rows):
        both = f"{board.metric} and {second_title(board)}"
        yield f"◆ Pareto front: no feasible row is at least as good in {both} and better in one."
    for place, (metric, limit) in enumerate(board.constraints.items(), start=1):
        if any(metric == breach.metric for row in board.rows for breach in row.breaches):
            yield f"✗{place} infeasible, so ranked last and never chosen: {metric} is not {limit}."
    if any(row.stopped_early for row in board.rows):
        yield "† stopped early: ranked by the last value, and never scored on test."
    if any(row.is_reused for row in board.rows):
        yield "↺ embeddings or weights came from the store, so the seconds do not include their computation."
