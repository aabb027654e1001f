"""`leaderboard`, `status`, `stop` and `sync`: sweeps that are there."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from orchestrator.commands.options import JsonOption, out, print_json

SweepArgument: TypeAlias = Annotated[str | None, typer.Argument(metavar="SWEEP", help="None = the newest.")]


def leaderboard(sweep: SweepArgument = None, as_json: JsonOption = False) -> None:
    """Show what a sweep found, with intervals."""
    from orchestrator.home import sweep_folder
    from orchestrator.leaderboard import leaderboard as rank
    from orchestrator.ledger import read_ledger
    from orchestrator.report import render

    board = rank(read_ledger(sweep_folder(sweep or newest_sweep())))
    if as_json:
        typer.echo(board.to_json())
    else:
        render(board, out)


def sync(sweep: SweepArgument = None) -> int:
    """Write a sweep into MLflow, completing what is missing there."""
    from orchestrator.home import mlflow_uri, sweep_folder
    from orchestrator.ledger import read_ledger
    from orchestrator.tracking import sync as replay

    folder = sweep_folder(sweep or newest_sweep())
    read_ledger(folder)  # no such sweep, or a damaged ledger: said before MLflow is asked
    reason = replay(folder, mlflow_uri()).reason
    typer.echo(
        f"sweep '{folder.name}' is not whole in MLflow: {reason}"
        if reason
        else f"'{folder.name}' is in MLflow"
    )
    return 1 if reason else 0


def status(sweep: SweepArgument = None, as_json: JsonOption = False) -> None:
    """Show what of a sweep is done, runs, failed or is still to come."""
    from orchestrator.home import sweep_folder
    from orchestrator.status import read_status

    found = read_status(sweep_folder(sweep or newest_sweep()))
    if as_json:
        print_json(found.to_dict())
        return
    for line in found.lines():
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def stop(sweep: Annotated[str, typer.Argument(metavar="SWEEP")]) -> None:
    """Let a running sweep end after its running epochs; it can be resumed."""
    from orchestrator.driver import ask_to_stop
    from orchestrator.home import sweep_folder
    from orchestrator.ledger import read_ledger

    folder = sweep_folder(sweep)
    read_ledger(folder)  # no such sweep: offers the nearest name
    pid = ask_to_stop(folder)
    typer.echo(f"asked process {pid} to stop '{sweep}' after the running epochs")
    typer.echo(f"go on later: python -m orchestrator sweep --resume {sweep}")


def newest_sweep() -> str:
    """Returns the name of the sweep that was written last.

    Raises:
        DataError: there is none.
    """
    from orchestrator.home import home, sweep_names
    from trainables.errors import DataError

    if names := sweep_names():
        return names[-1]
    raise DataError(f"no sweep in {home()}; start one: python -m orchestrator sweep")
