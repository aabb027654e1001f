"""`schema`: writes the JSON schema with which editors check search-space files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import SEARCH_SPACES


def schema(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FILE", help="File to write. Default: search_spaces/search_space.schema.json."
        ),
    ] = None,
) -> None:
    """Write the JSON schema of search-space files, for editors."""
    import json

    from orchestrator.search.json_schema import SCHEMA_FILE, search_space_schema
    from trainables.artifacts import write_atomically
    from trainables.errors import ConfigError

    path = output or Path(SEARCH_SPACES) / SCHEMA_FILE
    if not path.parent.is_dir():
        raise ConfigError(f"--output {path}: there is no folder {path.parent}; choose another file")
    write_atomically(path, json.dumps(search_space_schema(), indent=1) + "\n")
    typer.echo(str(path))
