"""More nodes for a real Ray head, on 127.0.0.1, each a process group of its own: killed as a machine dies."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress

from ray_head import Head, running_head

STATE = """
import json, sys
from orchestrator.cluster.environment import secure_environment
secure_environment()
from orchestrator.cluster.ray_internals import ask
address = sys.argv[1]
groups = ask(address, "GetAllPlacementGroup", "PlacementGroupInfo")
actors = ask(address, "GetAllActorInfo", "ActorInfo")
nodes = ask(address, "GetAllNodeInfo").node_info_list
keys = ask(address, "InternalKVKeys", "InternalKV", prefix=b"", namespace=b"clip_orchestrator_places")
print(json.dumps({
    "places": [key.decode() for key in keys.results],
    "groups": [group.state for group in groups.placement_group_table_data if group.state != 3],
    "actors": [actor.class_name for actor in actors.actor_table_data if actor.state != 4],
    "nodes": [info.node_id.hex() for info in nodes if info.state == 0 and not info.is_head_node],
}))
"""
LEAVING = """
import json, sys
from orchestrator.cluster.environment import secure_environment
secure_environment()
from orchestrator.cluster.cluster_state import lost_among, rooms
address, node = sys.argv[1:]
there = rooms(address)
print(json.dumps({
    "leaving": [room.node_id for room in there if room.is_leaving],
    "lost": sorted(lost_among(address, [room.node_id for room in there])),
}))
"""
NODE = """
import signal, sys
from ray._private.node import Node
from ray._private.parameter import RayParams
address, folder, num_cpus, num_gpus = sys.argv[1:]
options = RayParams(
    gcs_address=address, num_cpus=int(num_cpus), num_gpus=int(num_gpus), temp_dir=folder,
    object_store_memory=80_000_000, min_worker_port=0, max_worker_port=0, node_manager_port=0,
    include_log_monitor=False,
)
options.dashboard_agent_listen_port = None
node = Node(options, head=False, shutdown_at_exit=True, spawn_reaper=True)
print("up", flush=True)
signal.pause()
"""
"""`ray start` takes no second node where every socket is on 127.0.0.1; this is what it does."""
HOLDER = """
import sys, time, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
@ray.remote(num_cpus=0, num_gpus=float(sys.argv[2]))
class Holder:
    def hold(self):
        return True
holder = Holder.remote()
ray.get(holder.hold.remote())
print("holds", flush=True)
sys.stdin.read()
"""
"""Somebody else's job, until its standard input ends."""


class Nodes:
    """Nodes of one head, which itself offers no core."""

    def __init__(self, head: Head):
        self.head, self.processes = head, []

    def add(self, *, num_cpus: int, num_gpus: int = 0) -> subprocess.Popen:
        environment = self.head.environment | {"RAY_AUTH_MODE": "token"}
        del environment["PYTHONPATH"]
        """One after another: nodes that start together would take the same names for their sockets."""
        folder, has = self.head.folder / f"n{len(self.processes)}", (num_cpus, num_gpus)
        folder.mkdir()
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", NODE, self.head.address, str(folder), *map(str, has)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        assert b"up" in process.stdout.read(3), (folder / "log").read_text()
        return process

    def state(self) -> dict:
        """What the head counts as there."""
        done = self.head.run(sys.executable, "-c", STATE, self.head.address)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def held(self, num_gpus: float) -> Generator[subprocess.Popen]:
        """Another job takes GPUs; closing its standard input gives them back."""
        command = [sys.executable, "-c", HOLDER, self.head.address, str(num_gpus)]
        environment = self.head.environment | {"RAY_AUTH_MODE": "token"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        holder = subprocess.Popen(command, env=environment, cwd=self.head.folder, **pipes)
        try:
            assert holder.stdout.readline() == "holds\n"
            yield holder
        finally:
            holder.communicate(timeout=60)


def kill(process: subprocess.Popen) -> None:
    """Ends a node as a power cut does."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with process:  # waits, and closes its pipe
        pass


@contextmanager
def running_nodes() -> Generator[Nodes]:
    with running_head(num_cpus=0) as head:
        nodes = Nodes(head)
        try:
            yield nodes
        finally:
            for process in nodes.processes:
                kill(process)
