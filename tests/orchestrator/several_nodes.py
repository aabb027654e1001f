"""A Ray cluster of several nodes on 127.0.0.1, each with a home of its own; ends with its input.

Lines that it reads: `add HOME` starts a node that takes trials, `kill HOME` kills one. Each is answered.
"""

import os
import sys
import tempfile


def main(folder: str) -> None:
    os.environ["RAY_TMPDIR"] = folder
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    print(cluster.address, flush=True)
    nodes = {}
    for line in sys.stdin:
        verb, home = line.split()
        if verb == "add":
            nodes[home] = cluster.add_node(num_cpus=1, env_vars={"CLIP_ORCHESTRATOR_HOME": home})
        else:
            cluster.remove_node(nodes.pop(home), allow_graceful=False)
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="tn-", dir="/tmp") as short:  # as a socket's path has to be
        main(short)
