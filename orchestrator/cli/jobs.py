"""`submit` and `jobs`: run sweeps as jobs of a Ray cluster, through the dashboard of the cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from orchestrator.cli.options import JsonOption, doing, err, find_space, out, print_json, print_line
from trainables.shell import command

if TYPE_CHECKING:
    from orchestrator.cluster.jobs import Job, JobServer

DashboardOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="Dashboard of the cluster. Default: $RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265.",
    ),
]
JobArgument: TypeAlias = Annotated[str, typer.Argument(metavar="ID", help="Id of the job; see `jobs list`.")]
FollowOption: TypeAlias = Annotated[
    bool, typer.Option("--follow", help="Show the output until the job ends. Exit with the job's status.")
]
STAYS_HERE = {
    "from_plan": "--from-plan: a plan is valid only for one machine's data; make and run it on the head node",
    "to": "--out: the job would write this file on the cluster; use sweep instead of submit",
    "address": "--address: give the dashboard of the head node, http://HOST:8265",
}

app = typer.Typer(help="List, follow and stop the jobs of a Ray cluster.", no_args_is_help=True)


def submit(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SPACE] [OPTIONS OF SWEEP]",
            help="Arguments of `sweep`. The search space comes first.",
        ),
    ] = None,
    address: DashboardOption = None,
    follow: FollowOption = False,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME", help="Environment variable to pass on. Repeat for more."),
    ] = None,
    python: Annotated[str, typer.Option(help="Python interpreter on the nodes.")] = "python",
) -> int:
    """Run a sweep as a job on a Ray cluster. The job continues when this machine is switched off."""
    from orchestrator.cluster.jobs import job_variables

    given = list(arguments or [])
    space, rest = check_sweep(context.find_root().command, given)
    variables = job_variables(env or [])
    with doing("submitting the job"):
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
    """List the jobs of a cluster. The most recent job is last."""
    from dataclasses import asdict

    with doing("asking the cluster"):
        found = connect(address).jobs()
    if as_json:
        print_json([asdict(job) for job in found])
        return
    for job in found:
        print_line(describe(job))


@app.command()
def logs(job_id: JobArgument, follow: FollowOption = False, address: DashboardOption = None) -> int:
    """Show the output of a job."""
    with doing("asking the cluster"):
        server = connect(address)
        server.find(job_id)
    if follow:
        return follow_job(server, job_id, f" --address {server.address}" if address else "")
    write(server.logs(job_id))
    return 0


@app.command()
def stop(job_id: JobArgument, address: DashboardOption = None) -> None:
    """End a job. Its sweep keeps all finished trials and can be resumed."""
    from orchestrator.cluster.jobs import STOP_SECONDS

    with doing("asking the cluster"):
        is_stopped = connect(address).stop(job_id)
    if is_stopped:
        print_line(f"asked job {job_id} to end; the cluster kills the job after {STOP_SECONDS} s")
    else:
        print_line(f"job {job_id} had already ended")


def connect(address: str | None) -> JobServer:
    """Returns the Jobs API of a cluster. Warns first if the token would be sent unencrypted."""
    from orchestrator.cluster.jobs import JobServer

    return JobServer(address, lambda text: print_line(text, err))


def check_sweep(commands: Any, arguments: list[str]) -> tuple[Path | None, list[str]]:
    """Checks the arguments of `sweep`; returns the file of the search space, and the other arguments.

    Raises:
        ConfigError: an option is unknown or cannot be used in a job, or the search space is invalid.
    """
    from orchestrator.search.space_file import load_space
    from orchestrator.storage.uri import read_uri
    from trainables.errors import ConfigError

    values: dict[str, Any] = commands.commands["sweep"].make_context("sweep", list(arguments)).params
    for name, reason in STAYS_HERE.items():
        if values.get(name) is not None:
            raise ConfigError(reason)
    if values.get("storage"):
        read_uri(values["storage"])  # a URI with a credential must not leave this machine
    if values["resume"] is not None:
        return None, arguments
    name = values["space"]
    if name is not None and name != arguments[0]:
        raise ConfigError(f"'{name}': the search space comes first, for example: submit {name} --trials 4")
    file = find_space(name or "demo")
    load_space(file, list(values["overrides"] or []))  # checks the space; the cluster checks the data
    return file, arguments[1:] if name is not None else arguments


def follow_job(server: JobServer, job_id: str, where: str) -> int:
    """Shows the output of a job until it ends. Ctrl-C leaves the job running."""
    try:
        return server.follow(job_id, write)
    except KeyboardInterrupt:
        print_line(f"job {job_id} still runs; stop it: {command(f'jobs stop {job_id}{where}')}", err)
        raise


def describe(job: Job) -> str:
    """Returns a job as one line."""
    from datetime import datetime

    started = f"{datetime.fromtimestamp(job.started):%Y-%m-%d %H:%M}"
    status = job.status if job.exit_code is None else f"{job.status} {job.exit_code}"
    return f"{job.job_id}  {started}  {status}  {job.entrypoint}"


def write(text: str) -> None:
    """Writes the output of a job to standard output."""
    sys.stdout.write(text)
    sys.stdout.flush()
