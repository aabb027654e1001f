"""`submit` and `jobs`: a sweep as a job of a Ray cluster, from any machine that reaches its dashboard."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from orchestrator.cli.options import JsonOption, err, find_space, out, print_json
from trainables.shell import command

if TYPE_CHECKING:
    from orchestrator.cluster.jobs import Job, JobServer

DashboardOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="Of the cluster's dashboard; none = RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265.",
    ),
]
JobArgument: TypeAlias = Annotated[str, typer.Argument(metavar="ID", help="As `jobs list` shows it.")]
FollowOption: TypeAlias = Annotated[
    bool, typer.Option("--follow", help="Show what it prints until it ends; leave with its exit status.")
]
STAYS_HERE = {
    "from_plan": "--from-plan: a plan stands on this machine's data and weights; run it on the head",
    "to": "--out: a job's files stay on the cluster; plan here, or on the head",
    "address": "--address: takes the dashboard of the head, http://HOST:8265",
}

app = typer.Typer(help="What runs on a cluster: list, logs, stop.", no_args_is_help=True)


def submit(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SPACE] [OPTIONS OF SWEEP]", help="What `sweep` takes, the space first."),
    ] = None,
    address: DashboardOption = None,
    follow: FollowOption = False,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME", help="Send this environment variable along; may be repeated."),
    ] = None,
    python: Annotated[str, typer.Option(help="The interpreter, as the cluster's nodes know it.")] = "python",
) -> int:
    """Run a sweep on a Ray cluster, as a job that goes on without this machine."""
    from orchestrator.cluster.jobs import job_variables

    given = list(arguments or [])
    space, rest = check_sweep(context.find_root().command, given)
    variables = job_variables(env or [])
    server = connect(address)
    job_id = server.submit(rest, space, variables, python=python)
    print_line(f"job {job_id}", err if follow else out)
    where = f" --address {server.address}" if address else ""
    if follow:
        return follow_job(server, job_id, where)
    print_line(f"follow it: {command(f'jobs logs {job_id} --follow{where}')}")
    print_line(f"stop it: {command(f'jobs stop {job_id}{where}')}")
    return 0


@app.command("list")
def list_jobs(address: DashboardOption = None, as_json: JsonOption = False) -> None:
    """List the jobs of a cluster, the newest last."""
    from dataclasses import asdict

    found = connect(address).jobs()
    if as_json:
        print_json([asdict(job) for job in found])
        return
    for job in found:
        print_line(describe(job))


@app.command()
def logs(job_id: JobArgument, follow: FollowOption = False, address: DashboardOption = None) -> int:
    """Show what a job has printed."""
    server = connect(address)
    server.find(job_id)
    if follow:
        return follow_job(server, job_id, f" --address {server.address}" if address else "")
    write(server.logs(job_id))
    return 0


@app.command()
def stop(job_id: JobArgument, address: DashboardOption = None) -> None:
    """Ask a job to end; its sweep keeps what was finished, and can be resumed."""
    from orchestrator.cluster.jobs import STOP_SECONDS

    if connect(address).stop(job_id):
        print_line(f"asked {job_id} to end; it is killed if it has not after {STOP_SECONDS} s")
    else:
        print_line(f"{job_id} had ended already")


def connect(address: str | None) -> JobServer:
    """Returns the Jobs API of a cluster; says so first where the token goes there unencrypted."""
    from orchestrator.cluster.jobs import JobServer

    return JobServer(address, lambda text: print_line(text, err))


def check_sweep(commands: Any, arguments: list[str]) -> tuple[Path | None, list[str]]:
    """Reads the arguments of `sweep`; returns the file of its space, and the other arguments.

    Raises:
        ConfigError: options that `sweep` has not, or that mean nothing in a job, or a space that cannot hold.
    """
    from orchestrator.search.space_file import load_space
    from orchestrator.storage.uri import read_uri
    from trainables.errors import ConfigError

    values: dict[str, Any] = commands.commands["sweep"].make_context("sweep", list(arguments)).params
    for name, reason in STAYS_HERE.items():
        if values.get(name) is not None:
            raise ConfigError(reason)
    if values.get("storage"):
        read_uri(values["storage"])  # a credential in it must not leave this machine
    if values["resume"] is not None:
        return None, arguments
    name = values["space"]
    if name is not None and name != arguments[0]:
        raise ConfigError(f"'{name}': the space comes first: submit {name} …")
    file = find_space(name or "demo")
    load_space(file, list(values["overrides"] or []))  # whether it holds; the data are looked at over there
    return file, arguments[1:] if name is not None else arguments


def follow_job(server: JobServer, job_id: str, where: str) -> int:
    """Shows what a job prints until it ends; Ctrl-C leaves it running."""
    try:
        return server.follow(job_id, write)
    except KeyboardInterrupt:
        print_line(f"{job_id} goes on; stop it: {command(f'jobs stop {job_id}{where}')}", err)
        raise


def describe(job: Job) -> str:
    """Returns a job as one line."""
    from datetime import datetime

    started = f"{datetime.fromtimestamp(job.started):%Y-%m-%d %H:%M}"
    status = job.status if job.exit_code is None else f"{job.status} {job.exit_code}"
    return f"{job.job_id}  {started}  {status}  {job.entrypoint}"


def write(text: str) -> None:
    """Passes on what a job printed."""
    sys.stdout.write(text)
    sys.stdout.flush()


def print_line(text: str, console: Any = out) -> None:
    """Prints one line, however long, as it is."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)
