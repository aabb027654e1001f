"""Plans on the terminal and on disk: what `sweep --plan` shows and writes, what `--from-plan` runs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.options import err, out, print_json
from trainables.shell import command

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.cluster.nodes import Cluster
    from orchestrator.planning.plan import Plan


def show_plan(
    source: Path,
    changes: list[str],
    *,
    to: Path | None,
    is_timed: bool,
    as_json: bool,
    cluster: Cluster | None = None,
) -> None:
    """Plans a space, and writes the plan where it is asked for."""
    from orchestrator.planning.plan import make_plan
    from orchestrator.planning.plan_file import check_place, describe_plan, write_plan
    from orchestrator.search.space_file import load_space

    if to is not None:
        check_place(to)
    space = load_space(source, changes)
    with err.status("timing a step" if is_timed else "planning"):
        plan = make_plan(space, is_timed=is_timed, cluster=cluster)
    if to is not None:
        write_plan(to, describe_plan(plan, source))
    if as_json:
        print_json(plan.to_dict())
    else:
        print_plan(plan, out)
        if to is not None:
            run = command(f"sweep --from-plan {shlex.quote(str(to))}")
            out.print(f"The plan is in {to}; run exactly that: {run}", soft_wrap=True, highlight=False)


def read_planned(path: Path, cluster: Cluster | None = None) -> tuple[Plan, str]:
    """Returns a plan from its file, checked again, and its fingerprint.

    Raises:
        DataError: no whole plan, or one of other data, weights or code.
    """
    from orchestrator.planning.plan import make_plan
    from orchestrator.planning.plan_file import other_versions, read_plan, space_of_plan

    content = read_plan(path)
    plan = make_plan(space_of_plan(path, content), cluster=cluster)
    for line in other_versions(content):
        err.print(f"since the plan was written: {line}", highlight=False)
    return plan, content.fingerprint


def print_plan(plan: Plan, console: Console) -> None:
    """Prints a plan as labelled lines."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for label, text in plan.lines():
        table.add_row(Text(label, style="bold"), Text(text))
    console.print(table)
    console.print("Nothing was started.", style="dim")
