from __future__ import annotations

import copy
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray_job_schema import RAY_JOB

from orchestrator.cli.app import execute
from orchestrator.cluster.cluster_file import usable_cluster
from orchestrator.cluster.kuberay import KubernetesOptions, ray_job

PROJECT = Path(__file__).resolve().parents[3]
OPTIONS = KubernetesOptions(
    "python -m orchestrator sweep demo", "registry.example/clip:1", "2.60.0", claim="clip"
)


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return dict(usable_cluster(PROJECT / "cluster.yaml"))


def containers(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    spec = manifest["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return {one["name"]: one for group in groups for one in group["template"]["spec"]["containers"]}


def variables(container: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def test_the_manifest_is_a_ray_job(cluster: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(RAY_JOB).validate(ray_job(cluster, OPTIONS))


def test_the_schema_refuses_what_the_custom_resource_does_not_know(cluster: dict[str, Any]) -> None:
    manifest = ray_job(cluster, OPTIONS)
    for place in (("spec",), ("spec", "rayClusterSpec"), ("spec", "rayClusterSpec", "headGroupSpec")):
        wrong = copy.deepcopy(manifest)
        section = wrong
        for key in place:
            section = section[key]
        section["numGpus"] = 1
        with pytest.raises(jsonschema.ValidationError, match="numGpus"):
            jsonschema.Draft202012Validator(RAY_JOB).validate(wrong)


def test_its_settings_are_those_of_the_cluster_file(cluster: dict[str, Any]) -> None:
    spec = ray_job(cluster, OPTIONS)["spec"]
    assert spec["ttlSecondsAfterFinished"] == 60 * cluster["idle_timeout_minutes"]
    assert spec["shutdownAfterJobFinishes"]
    inner = spec["rayClusterSpec"]
    assert inner["autoscalerOptions"]["idleTimeoutSeconds"] == 60 * cluster["idle_timeout_minutes"]
    (workers,) = inner["workerGroupSpecs"]
    kind = cluster["available_node_types"]["gpu_worker"]
    assert (workers["minReplicas"], workers["maxReplicas"]) == (kind["min_workers"], kind["max_workers"])
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "4", "memory": "12Gi", "nvidia.com/gpu": "1"}


def test_the_head_takes_no_trials_and_has_no_gpu(cluster: dict[str, Any]) -> None:
    head = ray_job(cluster, OPTIONS)["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_token_authentication_is_on_and_no_secret_is_in_the_manifest(cluster: dict[str, Any]) -> None:
    manifest = ray_job(cluster, OPTIONS)
    assert manifest["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["serviceType"] == "ClusterIP"
    head, worker = containers(manifest)["ray-head"], containers(manifest)["ray-worker"]
    assert variables(head)["MLFLOW_TRACKING_PASSWORD"]["secretKeyRef"]["key"] == "password"
    assert not [name for name in variables(worker) if name.startswith("MLFLOW")]  # only the driver writes
    assert "RAY_AUTH_TOKEN" not in yaml.safe_dump(manifest)


def test_ledger_and_checkpoints_outlive_the_pods_on_a_claim(cluster: dict[str, Any]) -> None:
    found = containers(ray_job(cluster, OPTIONS))
    for container in found.values():
        assert variables(container)["CLIP_ORCHESTRATOR_STORAGE"].startswith(
            container["volumeMounts"][0]["mountPath"]
        )
    assert variables(found["ray-head"])["CLIP_ORCHESTRATOR_HOME"].startswith("/mnt/clip/")
    without = ray_job(cluster, KubernetesOptions("true", "x:1", "2.60.0"))
    jsonschema.Draft202012Validator(RAY_JOB).validate(without)
    assert "volumeMounts" not in containers(without)["ray-head"]


def test_a_cluster_of_ones_own_machines_becomes_one_group(cluster: dict[str, Any]) -> None:
    own = {"local": {"node_config": {}, "resources": {}, "min_workers": 2, "max_workers": 2}}
    manifest = ray_job(cluster | {"available_node_types": own, "head_node_type": "local"}, OPTIONS)
    jsonschema.Draft202012Validator(RAY_JOB).validate(manifest)
    (workers,) = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert workers["maxReplicas"] == 2


def test_the_command_prints_a_manifest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    job = ["--command", "python -m orchestrator sweep lora --name pilot"]
    assert execute(["cluster", "k8s", "--image", "registry.example/clip:1", "--gpus", "2", *job]) == 0
    manifest = yaml.safe_load(capsys.readouterr().out)
    jsonschema.Draft202012Validator(RAY_JOB).validate(manifest)
    assert shlex.split(manifest["spec"]["entrypoint"])[-1] == "pilot"
    assert containers(manifest)["ray-worker"]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert execute(["cluster", "k8s", "--image", "x:1", "--memory", "a lot"]) == 2
    assert "--memory a lot" in capsys.readouterr().err
    assert execute(["cluster", "k8s", "--image", "x:1", "--claim", "My Claim"]) == 2
    assert "--claim My Claim" in capsys.readouterr().err
