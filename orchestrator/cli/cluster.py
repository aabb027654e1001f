"""`cluster`: checks a cluster file, and converts it for Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from orchestrator.cli.options import JsonOption, err, print_json, print_line

app = typer.Typer(help="Check a cluster file, or convert it for Kubernetes.", no_args_is_help=True)

CLUSTER_FILE = Path("cluster.yaml")
FileArgument: TypeAlias = Annotated[
    Path, typer.Argument(metavar="[FILE]", help="Cluster file in the format of `ray up`.")
]


@app.command()
def check(file: FileArgument = CLUSTER_FILE, as_json: JsonOption = False) -> int:
    """Check a cluster file without contacting a cloud.

    Exit status: 0 if the file can be used, 2 if not. Each problem is listed with its field and a valid value.
    """
    from dataclasses import asdict

    from orchestrator.cluster.cluster_file import check_cluster

    found = check_cluster(file)
    if as_json:
        problems, notes = ([asdict(one) for one in some] for some in (found.problems, found.notes))
        print_json({"problems": problems, "notes": notes})
        return 2 if found.problems else 0
    for problem in found.problems:
        print_line(f"error: {problem}", err, "red")
    for note in found.notes:
        print_line(f"note: {note}", style="dim")
    if found.problems:
        return 2
    print_line(f"{file} can be used. Next: ray up {file}")
    return 0


@app.command()
def k8s(
    image: Annotated[
        str,
        typer.Option(
            help="Container image with Ray, the tested packages and this project (docs/how-to/kubernetes.md)."
        ),
    ],
    file: Annotated[
        Path, typer.Option("--cluster", metavar="FILE", help="Cluster file to convert.")
    ] = CLUSTER_FILE,
    command: Annotated[
        str, typer.Option(help="Command that the job runs in the container.")
    ] = "python -m orchestrator sweep demo",
    gpus: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Number of GPUs per Ray worker. Default: the number in its node type."
        ),
    ] = None,
    memory: Annotated[str, typer.Option(metavar="QUANTITY", help="Memory per Ray worker.")] = "12Gi",
    claim: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="PersistentVolumeClaim for the ledger and the checkpoints. Default: the job's own disk.",
        ),
    ] = None,
) -> None:
    """Print a cluster file as a KubeRay RayJob. Pipe the output into `kubectl apply -f -`."""
    from importlib.metadata import version

    import yaml

    from orchestrator.cluster.cluster_file import usable_cluster
    from orchestrator.cluster.kuberay import LEAST_KUBERAY, KubernetesOptions, ray_job

    options = KubernetesOptions(
        command=command, image=image, ray_version=version("ray"), gpus=gpus, memory=memory, claim=claim
    )
    manifest = yaml.safe_dump(ray_job(usable_cluster(file), options), sort_keys=False)
    typer.echo(f"# For KubeRay {LEAST_KUBERAY} or newer.\n{manifest}", nl=False)
