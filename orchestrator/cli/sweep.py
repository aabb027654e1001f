"""`sweep`: the main job. Plan, run, leaderboard, and what to type next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import (
    AddressOption,
    JsonOption,
    SetOption,
    StorageOption,
    WorkersOption,
    err,
    find_space,
    out,
)
from trainables.shell import command

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.cluster.nodes import Cluster
    from orchestrator.driver.sweep import SweepOptions
    from orchestrator.planning.plan import Plan


def sweep(
    space: Annotated[
        str | None,
        typer.Argument(metavar="[SPACE]", help="A file or a name in search_spaces/; none = demo."),
    ] = None,
    overrides: SetOption = None,
    trials: Annotated[int | None, typer.Option(min=1, metavar="N", help="How many to draw.")] = None,
    workers: WorkersOption = None,
    name: Annotated[str | None, typer.Option(help="Of the sweep; none = the space's and the time.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="NAME", help="Go on with a sweep that was interrupted.")
    ] = None,
    extend: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With --resume: draw N more trials.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: try failed trials again.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would run; start nothing.")] = False,
    to: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="With --plan: write the plan.")
    ] = None,
    no_timing: Annotated[
        bool, typer.Option("--no-timing", help="With --plan: take no step to estimate the time.")
    ] = False,
    from_plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Run exactly this plan, or nothing if it has drifted.")
    ] = None,
    address: AddressOption = None,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> int:
    """Compare every configuration of a search space; the leaderboard stands at the end."""
    from orchestrator.cli.plans import read_planned, show_plan
    from orchestrator.driver.sweep import SweepOptions
    from orchestrator.planning.plan import make_plan
    from orchestrator.search.space_file import load_space

    cluster = find_cluster(address)
    given: dict[str, object] = {"SPACE": space, "--set": overrides, "--trials": trials, "--plan": plan}
    if from_plan is not None:
        given |= {"--resume": resume, "--extend": extend, "--retry-failed": retry_failed}
        refuse_beside_plan(from_plan, given | {"--workers": workers, "--out": to, "--no-timing": no_timing})
        planned, fingerprint = read_planned(from_plan, cluster)
        options = SweepOptions(name=name, plan_fingerprint=fingerprint, cluster=cluster, storage=storage)
        return run_planned(planned, options, as_json=as_json)
    if resume is not None:
        refuse_beside_resume(resume, given | {"--name": name, "--out": to, "--no-timing": no_timing})
        storage = storage_of(resume, storage)
        planned = plan_rest(resume, extend, workers, cluster)
        options = SweepOptions(
            name=resume, resumes=True, retry_failed=retry_failed, cluster=cluster, storage=storage
        )
        return run_planned(planned, options, as_json=as_json)
    refuse_alone(
        {"--extend": extend, "--retry-failed": retry_failed}, "a sweep that is there", "--resume NAME"
    )
    changes = list(overrides or [])
    changes += [f"search.num_trials={trials}"] if trials else []
    changes += [f"execution.num_workers={workers}"] if workers else []
    source = find_space(space or "demo")
    if plan:
        show_plan(source, changes, to=to, is_timed=not no_timing, as_json=as_json, cluster=cluster)
        return 0
    refuse_alone({"--out": to, "--no-timing": no_timing}, "a plan", "--plan")
    planned = make_plan(load_space(source, changes), cluster=cluster)
    return run_planned(planned, SweepOptions(name=name, cluster=cluster, storage=storage), as_json=as_json)


def find_cluster(address: str | None) -> Cluster | None:
    """Returns the cluster to run on; Ray is loaded only where one is named."""
    from orchestrator.cluster.nodes import cluster_address

    if cluster_address(address) is None:
        return None
    from orchestrator.cluster import cluster_ray

    return cluster_ray.find_cluster(address)


def refuse_alone(options: dict[str, object], owner: str, missing: str) -> None:
    """Raises ConfigError for an option that means nothing without another one."""
    from trainables.errors import ConfigError

    for option, is_given in options.items():
        if is_given:
            raise ConfigError(f"{option}: belongs to {owner}; add {missing}")


def refuse_beside_plan(path: Path, options: dict[str, object]) -> None:
    """Raises ConfigError for what a plan settles."""
    from trainables.errors import ConfigError

    if given := [option for option, is_given in options.items() if is_given]:
        raise ConfigError(
            f"{', '.join(given)}: not together with --from-plan, as {path} says what runs; leave it out, or "
            f"plan again with it: {command('sweep SPACE --plan --out FILE')}"
        )


def refuse_beside_resume(name: str, options: dict[str, object]) -> None:
    """Raises ConfigError for what the ledger of the sweep says already."""
    from trainables.errors import ConfigError

    if given := [option for option, is_given in options.items() if is_given]:
        raise ConfigError(
            f"{', '.join(given)}: not together with --resume, as the ledger of '{name}' says what it tries; "
            f"what is left: {command(f'status {name}')}"
        )


def storage_of(name: str, given: str | None) -> str | None:
    """Returns where a sweep is kept beside this machine, and brings it here as far as it is further there.

    Args:
        name: of the sweep.
        given: a storage; None = what its ledger names.

    Raises:
        ClusterError: another driver runs it, or the storage does not answer.
    """
    from orchestrator.storage.ledger import read_ledger
    from orchestrator.storage.mirror import bring_sweep, reach
    from orchestrator.storage.paths import sweep_folder

    folder = sweep_folder(name)
    if given is None:
        given = read_ledger(folder).started.storage
    if given is not None:
        bring_sweep(reach(given), folder)
    return given


def plan_rest(name: str, extend: int | None, workers: int | None, cluster: Cluster | None = None) -> Plan:
    """Returns the plan of a sweep that is there; what is left of it, its ledger says later.

    Raises:
        ClusterError: it is running.
    """
    from orchestrator.driver.resume import read_started, space_of
    from orchestrator.planning.plan import make_plan
    from orchestrator.storage.driver_lock import running_driver
    from orchestrator.storage.paths import sweep_folder
    from trainables.errors import ClusterError

    state = read_started(name)
    if (pid := running_driver(sweep_folder(name))) is not None:
        raise ClusterError(
            f"sweep '{name}' is being run by process {pid}; wait for it, or stop it first: "
            + command(f"stop {name}")
        )
    return make_plan(space_of(state, extend=extend, num_workers=workers), cluster=cluster)


def run_planned(plan: Plan, options: SweepOptions, *, as_json: bool) -> int:
    """Runs a checked sweep while its ledger is replayed into MLflow, and shows what came out."""
    from orchestrator.cli.live import LiveTable
    from orchestrator.driver.sweep import run_sweep
    from orchestrator.planning.checks import decode_files
    from orchestrator.results.leaderboard import leaderboard
    from orchestrator.results.terminal_report import render
    from orchestrator.storage.ledger import read_ledger
    from orchestrator.storage.mirror import reach
    from orchestrator.storage.paths import mlflow_uri, sweep_folder

    if options.storage is not None:
        reach(options.storage)  # before any image is decoded for it
    options = replace(options, memory=plan.trial_memory)
    decodes_here = options.cluster is None or not options.cluster.is_spread  # else nodes do, once joined
    if decodes_here:
        with (err if as_json else out).status("decoding images"):
            decode_files(plan.space)
    with LiveTable(plan, uri=mlflow_uri(), to_stderr=as_json) as live:
        outcome = run_sweep(plan.space, options, live)
        live.finish_tracking()
    folder = sweep_folder(outcome.name)
    if not folder.is_dir():  # interrupted before anything was started
        return outcome.exit_code
    board = leaderboard(read_ledger(folder))
    if as_json:
        typer.echo(board.to_json())
    else:
        render(board, out)
        print_next(outcome.name, out)
    return outcome.exit_code


def print_next(name: str, console: Console) -> None:
    """Prints the commands that make sense now."""
    commands = {
        f"ui {name}": "every run in MLflow",
        f"leaderboard {name}": "this table again",
        "sweep lora --set data.dataset=manifest --set data.root=FOLDER": "your own images",
    }
    console.print("\nNext")
    for arguments, purpose in commands.items():
        line = f"  {command(arguments)}  [dim]# {purpose}[/]"
        console.print(line, soft_wrap=True, highlight=False)
