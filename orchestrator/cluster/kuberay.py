"""Makes a KubeRay `RayJob` from the cluster file of `ray up`: worker types, limits, versions, token.

Field names and types are those of the custom resource `rayjobs.ray.io/v1` (ray-project/kuberay,
`ray-operator/apis/ray/v1/rayjob_types.go` and `raycluster_types.go`), `authOptions` those of KubeRay 1.5.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from orchestrator.storage.uri import STORAGE_VARIABLE
from trainables.errors import ConfigError

LEAST_KUBERAY = "1.5.1"
"""The first version that sets up the token for every submission mode."""
MOUNT = "/mnt/clip"
MLFLOW_SECRET = "mlflow"
HEAD_LIMITS = {"cpu": "2", "memory": "8Gi"}
RAY_PORTS = {"gcs": 6379, "dashboard": 8265}
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?")
_CLAIM = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class KubernetesOptions:
    """Settings of Kubernetes that the cluster file does not have.

    Attributes:
        command: command that the job runs in the image.
        image: container image with Ray, the packages of constraints.txt and the project.
        ray_version: Ray version in the image.
        gpus: GPUs of one worker pod; None = the GPUs of its node type.
        memory: memory of one worker pod, as a Kubernetes quantity.
        claim: volume claim for ledger and checkpoints, which all pods mount; None = both end with the pods.
    """

    command: str
    image: str
    ray_version: str
    gpus: int | None = None
    memory: str = "12Gi"
    claim: str | None = None


def ray_job(cluster: Mapping[str, Any], options: KubernetesOptions) -> dict[str, Any]:
    """Returns the manifest of a `RayJob`.

    The operator creates the token in a Secret, and passes the token to each container by `secretKeyRef`. The
    manifest contains no token. The dashboard listens on the pod's network, because the operator asks the
    dashboard for the state of the job; each request needs the token. Only pods can reach the dashboard.

    Args:
        cluster: a checked cluster file with Ray's defaults.
        options: settings that the cluster file does not have.
    """
    if not _QUANTITY.fullmatch(options.memory):
        raise ConfigError(f"--memory {options.memory}: not a Kubernetes quantity; write for example 12Gi")
    if options.claim is not None and not _CLAIM.fullmatch(options.claim):
        raise ConfigError(
            f"--claim {options.claim}: not the name of a PersistentVolumeClaim; see `kubectl get pvc`"
        )
    idle_seconds = round(60 * cluster["idle_timeout_minutes"])
    head = cluster["head_node_type"]
    workers = {name: kind for name, kind in cluster["available_node_types"].items() if name != head}
    if not workers:  # the provider `local` has one node type
        workers = {"worker": cluster["available_node_types"][head]}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": cluster["cluster_name"]},
        "spec": {
            "entrypoint": options.command,
            "submissionMode": "K8sJobMode",
            "backoffLimit": 0,  # a second cluster would start another sweep; use `--resume`
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": idle_seconds,
            "rayClusterSpec": {
                "rayVersion": options.ray_version,
                "authOptions": {"mode": "token"},
                "enableInTreeAutoscaling": True,
                "autoscalerOptions": {"idleTimeoutSeconds": idle_seconds, "upscalingMode": "Conservative"},
                "headGroupSpec": {
                    "serviceType": "ClusterIP",
                    "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
                    "template": pod("ray-head", HEAD_LIMITS, options, is_driver=True),
                },
                "workerGroupSpecs": [worker_group(name, kind, options) for name, kind in workers.items()],
            },
        },
    }


def worker_group(name: str, kind: Mapping[str, Any], options: KubernetesOptions) -> dict[str, Any]:
    """Returns the group of worker pods for one node type."""
    gpus = options.gpus if options.gpus is not None else kind["resources"].get("GPU", 0)
    limits = {"cpu": str(kind["resources"].get("CPU") or 4), "memory": options.memory}
    if gpus:
        limits["nvidia.com/gpu"] = str(gpus)
    return {
        "groupName": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"),
        "replicas": kind["min_workers"],
        "minReplicas": kind["min_workers"],
        "maxReplicas": kind["max_workers"],
        "rayStartParams": {},
        "template": pod("ray-worker", limits, options),
    }


def pod(
    name: str, limits: Mapping[str, str], options: KubernetesOptions, *, is_driver: bool = False
) -> dict[str, Any]:
    """Returns a pod with one container. Only the driver's container gets the variables of MLflow."""
    container: dict[str, Any] = {
        "name": name,
        "image": options.image,
        "resources": {"limits": dict(limits), "requests": dict(limits)},
        "env": [],
    }
    spec: dict[str, Any] = {"containers": [container], "automountServiceAccountToken": is_driver}
    if is_driver:  # the driver's autoscaler asks Kubernetes for pods
        container["ports"] = [{"name": name, "containerPort": port} for name, port in RAY_PORTS.items()]
        container["env"] += [mlflow_variable(key) for key in ("uri", "username", "password")]
    if options.claim is not None:
        container["env"].append({"name": STORAGE_VARIABLE, "value": str(PurePosixPath(MOUNT) / "storage")})
        container["volumeMounts"] = [{"name": "clip", "mountPath": MOUNT}]
        spec["volumes"] = [{"name": "clip", "persistentVolumeClaim": {"claimName": options.claim}}]
        if is_driver:  # the ledger must outlive the pod
            container["env"].append(
                {"name": "CLIP_ORCHESTRATOR_HOME", "value": str(PurePosixPath(MOUNT) / "home")}
            )
    return {"spec": spec}


def mlflow_variable(key: str) -> dict[str, Any]:
    """Returns one of MLflow's variables, whose value is in an optional Secret."""
    reference = {"name": MLFLOW_SECRET, "key": key, "optional": True}
    return {"name": f"MLFLOW_TRACKING_{key.upper()}", "valueFrom": {"secretKeyRef": reference}}
