"""`ui`: serves MLflow on the loopback interface, and prints links to its main pages."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import SweepArgument, doing, print_line


def ui(
    sweep: SweepArgument = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port. If this port is in use, the next free port is used.")
    ] = 5000,
) -> None:
    """Serve MLflow on 127.0.0.1 until Ctrl-C."""
    from orchestrator.storage.ledger import read_ledger
    from orchestrator.storage.paths import mlflow_uri, sweep_folder, sweep_names
    from orchestrator.tracking.mlflow_server import links, serve
    from trainables.errors import ClusterError

    names = [sweep] if sweep else sweep_names()[-1:]
    state = read_ledger(sweep_folder(names[0])) if names else None
    with doing("starting MLflow"):
        server = serve(mlflow_uri(), port=port)
    try:
        if server.notice:
            print_line(server.notice, style="yellow")
        pages = {"MLflow": server.base_url}
        try:
            pages |= links(state, server.base_url) if state else {}
        except ClusterError as error:  # MLflow can be used without these links
            print_line(str(error), style="yellow")
        for name, address in pages.items():
            print_line(f"{name:>20}  {address}")
        if server.process:
            print_line("Press Ctrl-C to stop the server.", style="dim")
            server.process.wait()
    except KeyboardInterrupt:  # the ordinary end
        pass
    finally:
        server.stop()
