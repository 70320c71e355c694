"""The script of the chart's training pods, run as it stands by two of them on this machine."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.servers import usable_port
from tests.deploy.chart import one, rendered
from tests.stack import Stack
from tests.test_stack import TRAINING

pytestmark = pytest.mark.e2e


@pytest.mark.timeout(900)
def test_two_pods_train_one_network_and_wait_for_the_next(stack: Stack) -> None:
    stack.environment["ROBUSTREPS_LEASE_SECONDS"] = "60"  # a busy machine may take longer than 3 s over a step
    stack.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    values = {"training": {"enabled": True, "nodes": 2, "gpusPerNode": 1, "port": usable_port()}}
    pod = one(rendered(values), "StatefulSet", "-training")["spec"]["template"]["spec"]["containers"][0]
    script = pod["args"][0].replace("demo-robustreps-training-0.demo-robustreps-training", "127.0.0.1")
    nodes = [
        subprocess.Popen(["sh", "-c", script], env=stack.environment | {"NODE_RANK": rank}, start_new_session=True)
        for rank in ("0", "1")
    ]
    try:
        for _ in range(2):
            job_id = stack.client.submit(**TRAINING | {"epochs": 1})["id"]
            assert stack.client.wait(job_id, timeout=200)["state"] == "succeeded"
            assert next(stack.client.items(job_id))["provenance"]["processes"] == 2
        for node in nodes:  # as tini -g does
            os.killpg(node.pid, signal.SIGTERM)
            node.wait(60)
    finally:
        for node in nodes:
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()
