"""All private interfaces of Ray that this project uses.

They change between minor versions of Ray, so pyproject.toml pins the minor version. If a new version of Ray
fails, check this module first.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingModuleSource=false, reportAttributeAccessIssue=false, reportPrivateUsage=false

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Imports inside functions: Ray takes seconds to load, and reads its environment at that moment.

ASK_SECONDS = 5.0
ALIVE = 0
"""A value of `GcsNodeInfo.GcsNodeState`."""
DEAD = 4
"""A value of `ActorTableData.ActorState`."""
PLACED, REMOVED = 2, 3
"""Values of `PlacementGroupTableData.PlacementGroupState`."""


def ask(address: str, question: str, of: str = "NodeInfo", **fields: Any) -> Any:
    """Sends a request to the service `of` of a head, and returns the answer. Raises gRPC's errors."""
    from ray._private.gcs_utils import create_gcs_channel
    from ray.core.generated import gcs_service_pb2 as messages
    from ray.core.generated import gcs_service_pb2_grpc as services

    channel: Any = create_gcs_channel(address)
    with channel:
        stub = getattr(services, f"{of}GcsServiceStub")(channel)
        request = getattr(messages, f"{question}Request")(**fields)
        return getattr(stub, question)(request, timeout=ASK_SECONDS)


def autoscaler_groups(address: str) -> Any:
    """Returns the kinds of node that an autoscaler has registered with a head. Raises gRPC's errors."""
    from ray._raylet import GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, GCS_AUTOSCALER_STATE_NAMESPACE
    from ray.core.generated import autoscaler_pb2

    namespace, key = GCS_AUTOSCALER_STATE_NAMESPACE.encode(), GCS_AUTOSCALER_CLUSTER_CONFIG_KEY.encode()
    told = ask(address, "InternalKVGet", "InternalKV", namespace=namespace, key=key).value
    generated: Any = autoscaler_pb2
    return generated.ClusterConfig.FromString(told).node_group_configs


def head_of(address: str) -> str:
    """Returns the `host:port` of a head, also for `auto`. Raises OSError or ValueError if there is none."""
    from ray._private import services

    named = address if address != "auto" else os.environ.get("RAY_ADDRESS") or "auto"
    if named != "auto":
        return services.canonicalize_bootstrap_address_or_die(named)
    running, latest = services.find_gcs_addresses(), services.find_bootstrap_address(None)
    if latest in running:  # Ray would also try the address of a cluster that has ended
        return latest
    if len(running) == 1:
        return next(iter(running))
    raise ConnectionError(
        f"several Ray clusters run on this machine: {', '.join(sorted(running))}"
        if running
        else "no Ray cluster runs on this machine"
    )


def nodes_here() -> set[str]:
    """Returns the ids of all Ray nodes on this machine, over all clusters."""
    from ray._private import services

    return set(services.find_node_ids())


def this_node() -> Any:
    """Returns Ray's object for the node of this process: its processes, id and head address."""
    from ray._private import worker

    return worker._global_node


def cluster_file_schema() -> Any:
    """Returns the JSON schema of the files that `ray up` reads."""
    import ray.autoscaler

    return json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


def complete_cluster_file(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Completes a cluster file in the way of `ray up`. Raises Ray's errors if Ray refuses the file."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(dict(config))
    validate_config(prepared)
    return prepared


def open_job_client(address: str) -> Any:
    """Returns a client of Ray's Jobs API that does not log each upload."""
    from ray._private.runtime_env import packaging
    from ray.dashboard.modules.dashboard_sdk import SubmissionClient
    from ray.job_submission import JobSubmissionClient

    for module in (SubmissionClient.__module__, packaging.__name__):
        logging.getLogger(module).setLevel(logging.ERROR)
    return JobSubmissionClient(address)


def version_of(client: Any) -> str:
    """Returns the Ray version of the cluster to which a client of the Jobs API is connected."""
    return client._server_ray_version
