"""The leaderboard on the terminal: what val chose, what test says, controls, failures, the protocol."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.results.arms import Estimate
from orchestrator.results.leaderboard import CONTROLS, Leaderboard, Row, leaderboard
from orchestrator.search.constraints import number
from trainables.scoring.system_names import is_few_shot, split_few_shot
from trainables.shell import command

__all__ = ["Leaderboard", "leaderboard", "render"]

SYSTEM_NAMES = {
    "probe_joint": "probe joint",
    "probe_pooled": "probe pooled",
    "zero_shot_unseen": "zero-shot",
    "zero_shot_class_name": "zero-shot name",
    "zero_shot_template": "zero-shot templates",
    "zero_shot_pair": "zero-shot pairs",
    "baseline": "baseline",
    "baseline_from_scratch": "from scratch",
}
METRIC_NAMES = {
    "macro_auroc": "AUROC",
    "balanced_accuracy": "balanced acc.",
    "macro_f1": "F1",
    "accuracy": "accuracy",
}
COST_NAMES = {"perf/num_trainable_parameters": "weights", "perf/seconds": "s"}
MAX_ROWS = 30
WIDE, WIDEST = 96, 120  # columns of a terminal: with room for costs, and for what trains


def render(board: Leaderboard, console: Console) -> None:
    """Prints a leaderboard that fits the console, from 80 columns."""
    console.print(val_table(board, console.width))
    if any(row.test_accuracy for row in board.rows):
        console.print(opened_table(board, console.width))
    for absent in board.absent:
        console.print(
            Text.assemble((f"{absent.status}  ", "red"), absent.name, (f"  {absent.reason}", "dim"))
        )
    for line in captions(board):
        console.print(Text(line, style="yellow" if line == board.shortcut else "dim"))


def val_table(board: Leaderboard, width: int) -> Table:
    """Returns the ranked rows, the best first, and the controls beneath."""
    is_wide, is_widest = width >= WIDE, width >= WIDEST
    scores = (METRIC_NAMES.get(metric_of(board), metric_of(board)), "accuracy")
    second, costs = second_name(board), tuple(name for name in costs_beside(board) if is_wide)
    seconds = () if second is None else (second,)
    table = _table(f"{board.sweep}: chosen on val", "system", *scores, *seconds, *costs)
    if is_widest:
        table.add_column("trains")
    for rank, row in shown_rows(board):
        cells = [system_name(row.system), score(row), cell(row.accuracy, is_short=not is_wide)]
        cells += [] if second is None else [second_value(board, row)]
        cells += [cost(row, name) for name in costs]
        cells += [trains(row)] if is_widest else []
        table.add_row(str(rank), shown_name(board, row), *cells, style=_style(rank, row))
    table.add_section()
    for control in board.controls:
        cells = ["control", cell(control.objective), cell(control.accuracy, is_short=not is_wide)]
        table.add_row("", CONTROLS[control.system], *cells, style="dim")
    return table


def opened_table(board: Leaderboard, width: int) -> Table:
    """Returns the rows whose test labels were opened, ranked as on val, and the controls beneath."""
    is_wide, is_widest = width >= WIDE, width >= WIDEST
    has_self = is_widest and has_several_frozen(board)
    has_first = is_widest and any(row.over_first for row in board.rows)
    more = [*(["AUROC"] if is_wide else []), "over frozen", *(["error cut"] if is_widest else [])]
    more += [*(["over itself"] if has_self else []), *(["over #1"] if has_first else [])]
    table = _table("test, opened once", "system", "accuracy", *more)
    for rank, row in enumerate(board.rows, start=1):
        if row.test_accuracy:
            cells = [system_name(row.system), cell(row.test_accuracy)]
            cells += [cell(row.test_auroc)] if is_wide else []
            cells += [over_frozen(row)] + ([cell(row.error_cut)] if is_widest else [])
            cells += [cell(row.over_self, sign="+")] if has_self else []
            cells += [cell(row.over_first, sign="+")] if has_first else []
            table.add_row(str(rank), shown_name(board, row), *cells, style=_style(rank, row))
    table.add_section()
    for control in board.controls:
        if control.test_accuracy:
            cells = ["control", cell(control.test_accuracy), *([cell(control.test_auroc)] if is_wide else [])]
            table.add_row("", CONTROLS[control.system], *cells, style="dim")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("trial", overflow="fold", min_width=14)
    for name in columns:
        table.add_column(name, no_wrap=True, justify="right" if name in ("weights", "s") else "left")
    return table


def _style(rank: int, row: Row) -> str | None:
    return "dim" if row.breaches else "bold" if rank == 1 else "cyan" if row.is_baseline else None


def captions(board: Leaderboard) -> Iterator[str]:
    """Yields the protocol in words: what was chosen on what, what the brackets mean, what to doubt."""
    yield (
        f"Ranked by {metric_of(board)} on val, where alone anything is chosen (trials by {board.objective}). "
        "Brackets: 95 % bootstrap by patient. Zero-shot (unseen): prompts never used in training."
    )
    if board.test_opened:
        yield (
            f"Test labels opened once, {board.test_opened[:16].replace('T', ' ')} UTC. Over frozen: paired "
            "difference in accuracy to the strongest frozen probe. Error cut: its share of that one's errors."
        )
    else:
        yield "Test labels: not opened."
    if board.num_seeds > 1:
        chosen = (
            "The first seed also chose the arm, which flatters it a little. " if board.is_confirmed else ""
        )
        yield (
            f"(×{board.num_seeds}): mean over {board.num_seeds} training seeds; on val such brackets are "
            f"95 % t-intervals over seeds, not patients. {chosen}Arms without all seeds rank below."
        )
    if has_several_frozen(board):
        yield "Over itself: the same, to the same system of the row's own encoder, frozen."
    if any(row.over_first for row in board.rows):
        yield "Over #1: paired difference in accuracy on test to the row that stood first on val."
    few_shot = [row for row in board.rows if is_few_shot(row.system)]
    if few_shot:
        yield (
            "k-shot: probes on k labelled images a class, of as many patients; means over draws of them, "
            "on val with 95 % t-intervals over draws. Nothing of them is tuned on val."
        )
    if any(row.method != "none" for row in few_shot):
        yield "k-shot of an adapted encoder: adapting saw every label of train, the probe alone sees k."
    if any(row.system == "baseline_from_scratch" for row in board.rows):
        yield "From scratch: a classifier that started from random weights, not from ImageNet's."
    if any(row.differs is False for row in board.rows):
        yield "≈ not told apart from the first row: over the same seeds, the difference's interval holds 0."
    if any(row.is_on_front for row in board.rows):
        both = f"{metric_of(board)} and {second_name(board)}"
        yield f"◆ Pareto front: no feasible row is at least as good in {both}, and better in one."
    yield from (
        f"✗{place} infeasible, below all others and never chosen: {metric} is not {limit}."
        for place, (metric, limit) in enumerate(board.constraints.items(), start=1)
        if any(metric == breach.metric for row in board.rows for breach in row.breaches)
    )
    if any(row.stopped_early for row in board.rows):
        yield "† stopped early: ranked by its last value."
    if len(board.rows) > MAX_ROWS:
        yield f"The best {MAX_ROWS} of {len(board.rows)} rows and the baselines; all of them with --json."
    if any(absent.status == "unavailable" for absent in board.absent):
        again = command(f"sweep --resume {board.sweep} --retry-failed")
        yield f"Unavailable rows have no score; once their weights are here: {again}"
    yield from board.notes
    if board.shortcut:
        yield board.shortcut


def shown_rows(board: Leaderboard) -> Iterator[tuple[int, Row]]:
    """Yields the best rows with their rank, and every baseline."""
    for rank, row in enumerate(board.rows, start=1):
        if rank <= MAX_ROWS or row.is_baseline:
            yield rank, row


def has_several_frozen(board: Leaderboard) -> bool:
    """Says whether the strongest frozen probe may be another encoder's than a row's."""
    frozen = {row.arm_key for row in board.rows if row.method == "none"}
    return len(frozen) > 1 and any(row.over_self for row in board.rows)


def metric_of(board: Leaderboard) -> str:
    """Returns the metric by which every system is ranked."""
    return board.objective.rpartition("/")[2]


def system_name(system: str) -> str:
    """Returns a system as a reader calls it: `probe joint`, `8-shot pooled`."""
    if is_few_shot(system):
        num_shots, features = split_few_shot(system)
        return f"{num_shots}-shot {features}"
    return SYSTEM_NAMES[system]


def shown_name(board: Leaderboard, row: Row) -> str:
    """Returns a row's name, with the places of the constraints that it breaks: `rank=32 ✗1`."""
    places = list(board.constraints)
    return " ".join([row.name, *(f"✗{1 + places.index(breach.metric)}" for breach in row.breaches)])


def score(row: Row) -> str:
    """Returns the value that ranks a row; † stopped early, ≈ not told apart from the first row."""
    return cell(row.objective) + ("†" if row.stopped_early else "") + ("≈" if row.differs is False else "")


def second_name(board: Leaderboard) -> str | None:
    """Returns what is minimised too, as a heading; None if nothing is."""
    key = board.also_minimise
    return None if key is None else COST_NAMES.get(key) or " ".join(key.split("/")[1:]).replace("_", " ")


def second_value(board: Leaderboard, row: Row) -> str:
    """Returns what is minimised too; ◆ on the Pareto front."""
    if row.second is None:
        return ""
    value = count(round(row.second)) if second_name(board) == "weights" else number(row.second)
    return value + (" ◆" if row.is_on_front else "")


def costs_beside(board: Leaderboard) -> tuple[str, ...]:
    """Returns the costs that have a column of their own."""
    return tuple(name for name in COST_NAMES.values() if name != second_name(board))


def cost(row: Row, name: str) -> str:
    """Returns one of the costs of a row, by its heading."""
    return count(row.num_trainable) if name == "weights" else f"{row.seconds:.0f}"


def trains(row: Row) -> str:
    """Returns what trains: `nothing`, `projection`, `r8 all + proj`, `all of resnet18`."""
    lora = f"r{row.lora_rank} {row.lora_modules}"
    words = {"none": "nothing", "lora": lora, "lora+projection": f"{lora} + proj", "full": "every weight"}
    words["baseline"] = f"all of {row.classifier}"
    return words.get(row.method, row.method)


def cell(estimate: Estimate | None, *, is_short: bool = False, sign: str = "") -> str:
    """Returns `.841 [.80 .88]`, or in short `.841`; nothing where there is no value."""
    if estimate is None:
        return ""
    value = decimals(estimate.value, 3, sign)
    if is_short or estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{decimals(estimate.low, 2)} {decimals(estimate.high, 2)}]"


def over_frozen(row: Row) -> str:
    """Returns `+.122 [.08 .16]`, the paired difference to the reference."""
    return "reference" if row.is_reference else cell(row.over_frozen, sign="+")


def decimals(value: float, digits: int, sign: str = "") -> str:
    """Returns a fraction without its leading zero, as the field prints scores."""
    return re.sub(r"\b0\.", ".", f"{value:{sign}.{digits}f}")


def count(number: int | None) -> str:
    """Returns a number of weights in three characters or so."""
    if number is None:
        return ""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)
