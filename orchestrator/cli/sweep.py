"""`sweep`: plans and runs a search space, shows the leaderboard, and prints the next commands."""

from __future__ import annotations

from collections.abc import Mapping
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
    decode_with_bar,
    doing,
    err,
    find_space,
    out,
    print_line,
)
from orchestrator.cli.plans import find_cluster, read_planned, show_plan
from trainables.errors import ConfigError
from trainables.shell import command

if TYPE_CHECKING:
    from orchestrator.cluster.nodes import Cluster
    from orchestrator.driver.sweep import SweepOptions
    from orchestrator.planning.plan import Plan


def sweep(
    space: Annotated[
        str | None,
        typer.Argument(
            metavar="[SPACE]", help="Search space: a file, or a name in search_spaces/. Default: demo."
        ),
    ] = None,
    overrides: SetOption = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Number of trials to draw. Default: search.num_trials."),
    ] = None,
    workers: WorkersOption = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the sweep. Default: the space's name and the start time.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of an interrupted sweep to resume.")
    ] = None,
    extend: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With --resume: number of trials to add.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: run failed trials again.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Show the plan, and start nothing.")] = False,
    to: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="With --plan: file to write the plan to.")
    ] = None,
    no_timing: Annotated[
        bool, typer.Option("--no-timing", help="With --plan: do not time a training step.")
    ] = False,
    from_plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Plan file to run. Refused if code, data or weights changed."),
    ] = None,
    address: AddressOption = None,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> int:
    """Run every trial of a search space, and show the leaderboard."""
    settled = {"SPACE": space, "--set": overrides, "--trials": trials, "--plan": plan}
    if from_plan is not None:
        settled |= {"--resume": resume, "--extend": extend, "--retry-failed": retry_failed}
        refuse(
            settled | {"--workers": workers, "--out": to, "--no-timing": no_timing},
            f"cannot be combined with --from-plan, because {from_plan} fixes all settings. Make another plan:"
            f" {command('sweep SPACE --plan --out FILE')}",
        )
    elif resume is not None:
        refuse(
            settled | {"--name": name, "--out": to, "--no-timing": no_timing},
            f"cannot be combined with --resume, because sweep '{resume}' keeps its settings; see its state: "
            + command(f"status {resume}"),
        )
    else:
        refuse({"--extend": extend, "--retry-failed": retry_failed}, "can be used only with --resume NAME")
    changes = list(overrides or [])
    changes += [f"search.num_trials={trials}"] if trials else []
    changes += [f"execution.num_workers={workers}"] if workers else []
    if plan:
        source, is_timed = find_space(space or "demo"), not no_timing
        show_plan(source, changes, to=to, is_timed=is_timed, as_json=as_json, address=address)
        return 0
    if from_plan is None and resume is None:
        refuse({"--out": to, "--no-timing": no_timing}, "can be used only with --plan")
    what = f"plan {from_plan}" if from_plan else f"sweep '{resume}'" if resume else f"space {space or 'demo'}"
    with doing(f"checking {what}"):
        from orchestrator.driver.sweep import SweepOptions
        from orchestrator.planning.plan import make_plan
        from orchestrator.search.space_file import load_space

        cluster, fingerprint = find_cluster(address), None
        if from_plan is not None:
            planned, fingerprint = read_planned(from_plan, cluster)
        elif resume is not None:
            storage = storage_of(resume, storage)
            planned = plan_rest(resume, extend, workers, cluster)
        else:
            planned = make_plan(load_space(find_space(space or "demo"), changes), cluster=cluster)
        options = SweepOptions(
            name=resume or name,
            resumes=resume is not None,
            retry_failed=retry_failed,
            plan_fingerprint=fingerprint,
            cluster=cluster,
            storage=storage,
        )
    return run_planned(planned, options, as_json=as_json, address=address)


def refuse(options: Mapping[str, object], reason: str) -> None:
    """Raises ConfigError if the user gave one of these options."""
    if given := [option for option, is_given in options.items() if is_given]:
        raise ConfigError(f"{', '.join(given)}: {reason}")


def storage_of(name: str, given: str | None) -> str | None:
    """Returns the URI of a sweep's storage, and copies missing files from it to this machine.

    Args:
        name: name of the sweep.
        given: URI of a storage; None = the storage in the sweep's ledger.

    Raises:
        ClusterError: another driver runs the sweep.
        StorageError: the storage does not answer.
    """
    from orchestrator.storage.ledger import read_ledger
    from orchestrator.storage.mirror import fetch_sweep, reach
    from orchestrator.storage.paths import sweep_folder

    folder = sweep_folder(name)
    if given is None:
        given = read_ledger(folder).started.storage
    if given is not None:
        fetch_sweep(reach(given), folder)
    return given


def plan_rest(name: str, extend: int | None, workers: int | None, cluster: Cluster | None = None) -> Plan:
    """Returns the plan of an existing sweep, including its finished trials.

    Raises:
        ClusterError: the sweep is running.
    """
    from orchestrator.driver.resume import read_started, space_of
    from orchestrator.planning.plan import make_plan
    from orchestrator.storage.driver_lock import running_driver
    from orchestrator.storage.paths import sweep_folder
    from trainables.errors import ClusterError

    state = read_started(name)
    if (pid := running_driver(sweep_folder(name))) is not None:
        raise ClusterError(
            f"sweep '{name}' is being run by process {pid}; wait until it ends, or stop it first: "
            + command(f"stop {name}")
        )
    return make_plan(space_of(state, extend=extend, num_workers=workers), cluster=cluster)


def run_planned(plan: Plan, options: SweepOptions, *, as_json: bool, address: str | None = None) -> int:
    """Runs a planned sweep, copies its ledger to MLflow meanwhile, and shows the results."""
    from orchestrator.cli.live import LiveTable
    from orchestrator.driver.sweep import run_sweep
    from orchestrator.planning.checks import decode_files
    from orchestrator.results.leaderboard import leaderboard
    from orchestrator.results.terminal_report import render
    from orchestrator.storage.ledger import read_ledger
    from orchestrator.storage.mirror import reach
    from orchestrator.storage.paths import mlflow_uri, sweep_folder
    from orchestrator.tracking.store_schema import read_schema

    if options.storage is not None:
        reach(options.storage)  # fails before any image is decoded
    options = replace(options, memory=plan.trial_memory)
    schema = read_schema(mlflow_uri())
    if not schema.is_usable:
        print_line(schema.sentence, err, style="yellow")
    decode_files(plan.space, decode_with_bar, options.cluster)
    with LiveTable(plan, uri=mlflow_uri(), to_stderr=as_json) as live:
        outcome = run_sweep(plan.space, options, live)
        live.finish_tracking()
    folder = sweep_folder(outcome.name)
    if not folder.is_dir():  # interrupted before the first trial
        return outcome.exit_code
    board = leaderboard(read_ledger(folder))
    if as_json:
        typer.echo(board.to_json())
        return outcome.exit_code
    render(board, out)
    print_line("\nNext")
    for arguments, purpose in next_commands(outcome.name, outcome.exit_code, address).items():
        print_line(f"  {command(arguments)}  # {purpose}")
    return outcome.exit_code


def next_commands(name: str, exit_code: int, address: str | None) -> dict[str, str]:
    """Returns useful commands after a sweep, with the purpose of each. The last one matters most."""
    commands = {
        "sweep lora --set data.dataset=image_folder --set data.root=FOLDER": "your own images",
        f"leaderboard {name}": "this table again",
        f"ui {name}": "every run in MLflow",
    }
    resume = f"sweep --resume {name}" + (f" --address {address}" if address else "")
    if exit_code > 128:
        return commands | {resume: "resume this sweep"}
    return commands | ({f"{resume} --retry-failed": "run the failed trials again"} if exit_code == 3 else {})
