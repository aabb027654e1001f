"""`ui`: MLflow on the loopback interface, and the links worth opening."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import out


def ui(
    sweep: Annotated[str | None, typer.Argument(metavar="SWEEP", help="None = the newest.")] = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="The next free one is taken if it is not.")
    ] = 5000,
) -> None:
    """Serve MLflow on 127.0.0.1 until Ctrl-C."""
    from orchestrator.storage.ledger import read_ledger
    from orchestrator.storage.paths import mlflow_uri, sweep_folder, sweep_names
    from orchestrator.tracking.mlflow_server import links, serve
    from trainables.errors import ClusterError

    names = [sweep] if sweep else sweep_names()[-1:]
    state = read_ledger(sweep_folder(names[0])) if names else None
    server = serve(mlflow_uri(), port=port)
    try:
        pages = {"MLflow": server.base_url}
        try:
            pages |= links(state, server.base_url) if state else {}
        except ClusterError as error:  # the server is of use even so
            out.print(str(error), style="yellow", highlight=False)
        for name, address in pages.items():
            out.print(f"{name:>20}  {address}", soft_wrap=True, highlight=False)
        if server.process:
            out.print("Ctrl-C ends it.", style="dim")
            server.process.wait()
    except KeyboardInterrupt:  # the ordinary end
        pass
    finally:
        server.stop()
