"""`cluster`: hold `cluster.yaml` against what can go wrong, and write it for Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from orchestrator.cli.options import JsonOption, err, out, print_json

app = typer.Typer(help="Check cluster.yaml; write it for Kubernetes.", no_args_is_help=True)

FileArgument: TypeAlias = Annotated[Path, typer.Argument(metavar="[FILE]", help="What `ray up` reads.")]


@app.command()
def check(file: FileArgument = Path("cluster.yaml"), as_json: JsonOption = False) -> int:
    """Check a cluster file without any cloud.

    Leaves with 0 if it can be used, 2 with problems, each with its field and what to write.
    """
    from dataclasses import asdict

    from orchestrator.cluster.cluster_file import check_cluster

    found = check_cluster(file)
    if as_json:
        problems, notes = ([asdict(one) for one in some] for some in (found.problems, found.notes))
        print_json({"problems": problems, "notes": notes})
        return 2 if found.problems else 0
    for problem in found.problems:
        err.print(f"error: {problem}", style="red", soft_wrap=True, highlight=False, markup=False)
    for note in found.notes:
        out.print(f"note: {note}", style="dim", soft_wrap=True, highlight=False, markup=False)
    if found.problems:
        return 2
    out.print(f"{file}: ready. Next: ray up {file}", soft_wrap=True, highlight=False, markup=False)
    return 0


@app.command()
def k8s(
    image: Annotated[
        str, typer.Option(help="Holds Ray, the tested packages and the project: docs/how-to/kubernetes.md.")
    ],
    file: Annotated[Path, typer.Option("--cluster", metavar="FILE", help="The settings.")] = Path(
        "cluster.yaml"
    ),
    command: Annotated[
        str, typer.Option(help="What the job runs in the image.")
    ] = "python -m orchestrator sweep demo",
    gpus: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Of a worker; none = as its type says.")
    ] = None,
    memory: Annotated[str, typer.Option(metavar="QUANTITY", help="Of a worker.")] = "12Gi",
    claim: Annotated[
        str | None, typer.Option(metavar="NAME", help="PersistentVolumeClaim for ledger and checkpoints.")
    ] = None,
) -> None:
    """Print a KubeRay RayJob with the settings of a cluster file: `… | kubectl apply -f -`."""
    from importlib.metadata import version

    import yaml

    from orchestrator.cluster.cluster_file import usable_cluster
    from orchestrator.cluster.kuberay import LEAST_KUBERAY, KubernetesOptions, ray_job

    options = KubernetesOptions(
        command=command, image=image, ray_version=version("ray"), gpus=gpus, memory=memory, claim=claim
    )
    manifest = yaml.safe_dump(ray_job(usable_cluster(file), options), sort_keys=False)
    typer.echo(f"# For KubeRay {LEAST_KUBERAY} or newer.\n{manifest}", nl=False)
