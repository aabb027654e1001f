"""The part of `rayjobs.ray.io/v1` that we write, as a JSON schema that refuses every other field.

Names, types, required fields and enumerations are those of ray-project/kuberay, commit 0057210ed5a9
(`ray-operator/apis/ray/v1/rayjob_types.go`, `raycluster_types.go`, `docs/reference/api.md`), with
`authOptions` of release 1.5.1; those of pods, containers and quantities are the Kubernetes core v1 types.
"""

from typing import Any

NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}  # a label of RFC 1123
TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}  # int32
QUANTITY = {"type": "string", "pattern": r"^([0-9]+(\.[0-9]*)?)(([KMGTPE]i)|[numkMGTPE])?$"}


def record(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
SECRET_KEY = record({"key": TEXT}, name=NAME, optional={"type": "boolean"})
VARIABLE = record({"name": TEXT}, value={"type": "string"}, valueFrom=record({"secretKeyRef": SECRET_KEY}))
CONTAINER = record(
    {"name": NAME, "image": TEXT},
    resources=record({}, limits=QUANTITIES, requests=QUANTITIES),
    env={"type": "array", "items": VARIABLE},
    ports={"type": "array", "items": record({"containerPort": COUNT}, name=NAME)},
    volumeMounts={"type": "array", "items": record({"name": NAME, "mountPath": TEXT})},
)
VOLUME = record({"name": NAME}, persistentVolumeClaim=record({"claimName": NAME}))
POD = record(
    {
        "spec": record(
            {"containers": {"type": "array", "items": CONTAINER, "minItems": 1}},
            volumes={"type": "array", "items": VOLUME},
            automountServiceAccountToken={"type": "boolean"},
        )
    }
)
START = {"type": "object", "additionalProperties": {"type": "string"}}
SERVICES = {"enum": ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]}
HEAD = record({"rayStartParams": START, "template": POD}, serviceType=SERVICES)
WORKERS = record(
    {"groupName": NAME, "minReplicas": COUNT, "maxReplicas": COUNT, "rayStartParams": START, "template": POD},
    replicas=COUNT,
)
AUTOSCALER = record(
    {}, idleTimeoutSeconds=COUNT, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}
)
CLUSTER = record(
    {"headGroupSpec": HEAD},
    workerGroupSpecs={"type": "array", "items": WORKERS},
    rayVersion=TEXT,
    authOptions=record({"mode": {"enum": ["disabled", "token"]}}),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=AUTOSCALER,
)
RAY_JOB = record(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": record({"name": {**NAME, "maxLength": 47}}),  # the operator appends to it
        "spec": record(
            {},
            entrypoint=TEXT,
            submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
            backoffLimit=COUNT,
            shutdownAfterJobFinishes={"type": "boolean"},
            ttlSecondsAfterFinished=COUNT,
            rayClusterSpec=CLUSTER,
        ),
    }
)
