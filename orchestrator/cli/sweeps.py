"""`sweeps`, `leaderboard`, `status`, `stop` and `sync`: commands on existing sweeps."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from orchestrator.cli.options import JsonOption, SweepArgument, out, print_json, print_line
from orchestrator.storage.uri import STORAGE_VARIABLE
from trainables.shell import command

if TYPE_CHECKING:
    from orchestrator.storage.store import Storage

NameArgument: TypeAlias = Annotated[str, typer.Argument(metavar="SWEEP", help="Name of the sweep.")]
ThereOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URI",
        help="Storage to read the sweep from. Default: this machine, or the storage in "
        f"${STORAGE_VARIABLE} if this machine does not have the sweep.",
    ),
]

app = typer.Typer(help="List the sweeps on this machine, or delete one.", invoke_without_command=True)


@app.callback()
def sweeps(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the sweeps on this machine with date, state, size and best score. The most recent is last."""
    from dataclasses import asdict

    from orchestrator.results.sweep_list import list_sweeps
    from orchestrator.storage.paths import home

    if context.invoked_subcommand is not None:
        return
    found = list_sweeps()
    if as_json:
        print_json([asdict(record) | {"folder": str(record.folder)} for record in found])
        return
    if not found:
        print_line(f"no sweeps in {home()}; start one: {command('sweep')}")
        return
    width = max(len(record.name) for record in found)
    print_line(f"{'sweep':{width}}  last used (UTC)   state        size      best on val", style="bold")
    for record in found:
        when, size = record.last_used[:16].replace("T", " "), _size(record.size_bytes)
        score = "" if record.best_score is None else f"{record.best_score:.4f} {record.objective}"
        print_line(f"{record.name:{width}}  {when}  {record.state:11}  {size:8}  {score}".rstrip())
    print_line(f"delete a sweep to free its disk space: {command('sweeps delete NAME')}", style="dim")


@app.command()
def delete(
    sweep: NameArgument,
    is_sure: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a sweep from this machine. Its runs in MLflow and its copy in a storage are kept."""
    from orchestrator.storage.ledger import no_such_sweep
    from orchestrator.storage.paths import sweep_folder
    from orchestrator.storage.sweeps import delete_sweep, size_bytes

    folder = sweep_folder(sweep)
    if not (folder / "ledger").is_dir():
        raise no_such_sweep(folder)
    if not is_sure:
        typer.confirm(f"Delete sweep '{sweep}' ({_size(size_bytes(folder))}) and its adapters?", abort=True)
    typer.echo(f"deleted sweep '{sweep}': {_size(delete_sweep(sweep))} freed")


def _size(num_bytes: int) -> str:
    from rich.filesize import decimal

    return decimal(num_bytes)


def leaderboard(
    sweep: SweepArgument = None, storage: ThereOption = None, as_json: JsonOption = False
) -> None:
    """Show the ranked results of a sweep, with 95 % intervals."""
    from orchestrator.results.leaderboard import leaderboard as rank
    from orchestrator.results.terminal_report import render
    from orchestrator.storage.ledger import read_ledger

    with found(sweep, storage) as (folder, _):
        board = rank(read_ledger(folder))
    if as_json:
        typer.echo(board.to_json())
    else:
        render(board, out)


def sync(sweep: SweepArgument = None) -> int:
    """Copy a sweep to MLflow, or complete an incomplete copy."""
    from orchestrator.cli.options import doing
    from orchestrator.storage.ledger import read_ledger
    from orchestrator.storage.paths import mlflow_uri, sweep_folder
    from orchestrator.tracking.replay import sync as replay

    folder = sweep_folder(sweep or newest_sweep())
    read_ledger(folder)  # fails on an unknown sweep or a damaged ledger before MLflow starts
    with doing(f"writing sweep '{folder.name}' into MLflow"):
        replayed = replay(folder, mlflow_uri())
    for notice in replayed.notices:
        typer.echo(notice)
    if replayed.reason:
        typer.echo(f"sweep '{folder.name}' is incomplete in MLflow: {replayed.reason}")
        return 1
    typer.echo(f"sweep '{folder.name}' is complete in MLflow")
    return 0


def status(sweep: SweepArgument = None, storage: ThereOption = None, as_json: JsonOption = False) -> None:
    """Show which trials of a sweep are done, running, failed or pending."""
    from orchestrator.results.status import read_status

    with found(sweep, storage) as (folder, there):
        seen = read_status(folder, there)
    if as_json:
        print_json(seen.to_dict())
        return
    for line in seen.lines():
        print_line(line)


def stop(sweep: NameArgument) -> None:
    """Stop a sweep. Running trials first finish their current epoch. It can be resumed."""
    from orchestrator.storage.driver_lock import ask_to_stop
    from orchestrator.storage.ledger import read_ledger
    from orchestrator.storage.paths import sweep_folder

    folder = sweep_folder(sweep)
    read_ledger(folder)  # if the sweep is unknown, suggests the nearest name
    pid = ask_to_stop(folder)
    typer.echo(f"process {pid} will stop sweep '{sweep}' after the running epochs")
    typer.echo(f"resume it later: {command(f'sweep --resume {sweep}')}")


@contextmanager
def found(sweep: str | None, uri: str | None) -> Generator[tuple[Path, Storage | None]]:
    """Yields the folder of a sweep, and the storage it was copied from (None = it is on this machine).

    Args:
        sweep: name of the sweep; None = the most recent one.
        uri: URI of a storage. None = this machine, or the storage in the environment if the sweep is not
            on this machine.

    Raises:
        ConfigError: the name or the URI is invalid.
        DataError: the sweep does not exist; suggests the nearest name.
        StorageError: the storage does not answer.
    """
    from orchestrator.storage.paths import sweep_folder, sweep_names

    here = sweep_names()
    if uri is None and not (sweep in here or (sweep is None and here)):
        uri = os.environ.get(STORAGE_VARIABLE) or None
    if uri is None:
        yield sweep_folder(sweep or newest_sweep()), None
        return
    from orchestrator.storage.remote_sweeps import copied, newest_in
    from orchestrator.storage.store import open_storage

    there = open_storage(uri)
    name = sweep_folder(sweep).name if sweep else newest_in(there)  # refuses paths
    with copied(there, name, here) as folder:
        yield folder, there


def newest_sweep() -> str:
    """Returns the name of the most recent sweep.

    Raises:
        DataError: there is no sweep.
    """
    from orchestrator.storage.paths import home, sweep_names
    from trainables.errors import DataError

    if names := sweep_names():
        return names[-1]
    raise DataError(f"no sweep in {home()}; start one: {command('sweep')}")
