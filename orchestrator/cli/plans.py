"""Prints and writes the plan of `sweep --plan`, and reads the plan of `sweep --from-plan`."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.options import decode_with_bar, doing, err, out, print_json, print_line
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
    address: str | None,
) -> None:
    """Plans a search space, prints the plan, and writes the plan to the file `to` if it is given.

    Image files are decoded into the cache, so that a plan is refused if its sweep would be.

    Raises:
        DataError: some images cannot be decoded.
        ClusterError: the sweep does not fit on the disk.
    """
    with doing("planning, and timing one training step" if is_timed else "planning"):
        from orchestrator.planning.checks import decode_files
        from orchestrator.planning.plan import make_plan
        from orchestrator.planning.plan_file import check_place, describe_plan, write_plan
        from orchestrator.search.space_file import load_space
        from orchestrator.storage.paths import mlflow_uri
        from orchestrator.tracking.store_schema import read_schema
        from trainables.errors import ClusterError

        if to is not None:
            check_place(to)
        cluster = find_cluster(address)
        plan = make_plan(load_space(source, changes), is_timed=is_timed, cluster=cluster)
        plan = replace(plan, tracking=read_schema(mlflow_uri()).sentence)
    shortage = plan.disk.shortage()
    if not shortage:
        decode_files(plan.space, decode_with_bar, cluster)
    if as_json:
        print_json(plan.to_dict())
    else:
        print_plan(plan, out)
    if shortage:
        raise ClusterError(shortage)
    if to is not None:
        write_plan(to, describe_plan(plan, source))
    if to is not None and not as_json:
        print_line(f"The plan is in {to}. Run it: {command(f'sweep --from-plan {shlex.quote(str(to))}')}")


def find_cluster(address: str | None) -> Cluster | None:
    """Returns the cluster to run on, or None for this machine. Imports Ray only for a cluster."""
    from orchestrator.cluster.nodes import cluster_address

    if cluster_address(address) is None:
        return None
    from orchestrator.cluster import cluster_ray

    return cluster_ray.find_cluster(address)


def read_planned(path: Path, cluster: Cluster | None = None) -> tuple[Plan, str]:
    """Reads a plan file, checks it again, and returns the plan and its fingerprint.

    Raises:
        DataError: the file is not a complete plan, or data, weights or code have changed since.
    """
    from orchestrator.planning.plan import make_plan
    from orchestrator.planning.plan_file import other_versions, read_plan, space_of_plan

    content = read_plan(path)
    plan = make_plan(space_of_plan(path, content), cluster=cluster)
    for line in other_versions(content):
        print_line(f"changed since the plan was written: {line}", err)
    return plan, content.fingerprint


def print_plan(plan: Plan, console: Console) -> None:
    """Prints a plan as labelled lines."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")  # a path that is cut off cannot be copied
    for label, text in plan.lines():
        table.add_row(Text(label, style="bold"), Text(text))
    console.print(table)
    console.print("Nothing was started.", style="dim")
