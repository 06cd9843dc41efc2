"""cluster.yaml and docs/cluster: Ray's own check, our conventions, and a start of the local cluster."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start
from ray_start import free_ports
from typer.main import get_command

from harness.cli.app import app
from harness.executors.scheduling.cluster import AUTOSCALED_LABEL, POOL_LABEL, RESERVED_POOLS, SLOT

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "cluster"
LAUNCHER = [
    ROOT / "cluster.yaml",
    *(FOLDER / f"{name}.yaml" for name in ("aws", "gcp", "on-premises", "local")),
]
POOLS = {*RESERVED_POOLS, "accuracy"}


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


@pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.stem)
def test_the_cluster_launcher_accepts_the_file(path: Path) -> None:
    validate_config(prepare_config(read(path)))


@pytest.mark.parametrize(
    "wrong",
    [{"max_worker": 3}, {"head_node_type": "heads"}, {"upscaling_speed": "fast"}],
)
def test_the_launchers_check_finds_mistakes(wrong: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"max_worker|head_node_type|fast"):
        validate_config(prepare_config(read(LAUNCHER[0]) | wrong))


@pytest.mark.parametrize(
    "path", [path for path in LAUNCHER if path.stem != "on-premises"], ids=lambda p: p.stem
)
def test_each_pool_has_its_label_and_may_grow(path: Path) -> None:
    config = read(path)
    types = config["available_node_types"]
    assert {node["labels"][POOL_LABEL] for node in types.values()} == POOLS
    assert types[config["head_node_type"]]["labels"][POOL_LABEL] == "head"
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}, "the head computes nothing"
    workers = [node for node in types.values() if node["labels"][POOL_LABEL] != "head"]
    assert sum(node["max_workers"] for node in workers) == config["max_workers"]
    assert all(node["min_workers"] == 0 for node in workers)
    assert all(node["resources"][SLOT] == 1 for node in workers)
    grows = set(types[config["head_node_type"]]["labels"][AUTOSCALED_LABEL].split("."))
    assert grows == {"timing"} | ({"gpu"} if any("GPU" in node["resources"] for node in workers) else set())


# vCPUs and GPUs of machine types, from the providers' pages (EC2 G6, P4; Compute Engine G2).
MACHINES = {"g6.2xlarge": (8, 1), "p4d.24xlarge": (96, 8), "g2-standard-8": (8, 1)}


@pytest.mark.parametrize("path", LAUNCHER[:3], ids=lambda path: path.stem)
def test_resources_match_the_machine_types_and_timing_nodes_are_not_preemptible(path: Path) -> None:
    for name, node in read(path)["available_node_types"].items():
        config = node["node_config"]
        if name == "head":
            continue
        kind = config.get("InstanceType") or config["machineType"]
        assert (node["resources"]["CPU"], node["resources"]["GPU"]) == MACHINES[kind]
        preempted = "spot" in str(config).lower()
        assert preempted == (name == "accuracy")


@pytest.mark.parametrize("path", LAUNCHER[:4], ids=lambda path: path.stem)
def test_nodes_authenticate_and_install_this_project(path: Path) -> None:
    config = read(path)
    assert "~/.ray/auth_token" in config["file_mounts"].values()
    assert any("pip install" in command and "~/harness" in command for command in config["setup_commands"])
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]
    for kind in ("head", "worker"):
        stop, started = config[f"{kind}_start_ray_commands"]
        assert stop.endswith("ray stop")
        assert started.index("RAY_AUTH_MODE=token") < started.index("ray start")
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in config["head_start_ray_commands"][1]
    assert "0.0.0.0" not in config["head_start_ray_commands"][1], "the dashboard is reached through ssh"


@pytest.mark.parametrize("path", LAUNCHER[:4], ids=lambda path: path.stem)
@pytest.mark.parametrize("kind", ["head", "worker"])
def test_the_start_commands_use_options_that_ray_knows(path: Path, kind: str) -> None:
    command = read(path)[f"{kind}_start_ray_commands"][1]
    words = shlex.split(command[command.index("ray start") :].replace("$(cat", "'$(cat").replace(")", ")'"))
    with start.make_context("start", words[2:], resilient_parsing=False) as context:
        assert context.params


class TestRayJob:
    job = read(FOLDER / "rayjob.yaml")

    def test_has_groups_for_both_pools(self) -> None:
        assert (self.job["apiVersion"], self.job["kind"]) == ("ray.io/v1", "RayJob")
        cluster = self.job["spec"]["rayClusterSpec"]
        groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
        assert groups.keys() == POOLS - {"head"}
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["rayVersion"] == ray.__version__
        for name, group in (*groups.items(), ("head", cluster["headGroupSpec"])):
            grows = {AUTOSCALED_LABEL: "gpu.timing"} if name == "head" else {}
            assert group["labels"] == {POOL_LABEL: name, **grows}
            assert "labels" not in group["rayStartParams"], "KubeRay 1.5 and newer reject labels there"
            (container,) = group["template"]["spec"]["containers"]
            assert container["resources"]["limits"] == container["resources"]["requests"], "guaranteed pods"
        for group in groups.values():
            # KubeRay inserts the value into a shell command unchanged.
            assert json.loads(shlex.split(group["rayStartParams"]["resources"])[0]) == {SLOT: 1}
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            assert "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"]

    def test_parameters_are_accepted_by_ray_start(self) -> None:
        cluster = self.job["spec"]["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert all(isinstance(value, str) for value in group["rayStartParams"].values())
            start.make_context("start", [f"--{k}={v}" for k, v in group["rayStartParams"].items()])

    def test_entrypoint_is_a_command_of_the_harness(self) -> None:
        program, command, *arguments = shlex.split(self.job["spec"]["entrypoint"])
        assert program == "harness"
        get_command(app).commands[command].make_context(command, arguments)  # type: ignore[attr-defined]


def test_the_docs_name_exactly_the_files_that_exist() -> None:
    text = (ROOT / "docs" / "cluster.md").read_text()
    named = set(re.findall(r"cluster/([\w-]+\.yaml)", text))
    assert named == {path.name for path in FOLDER.glob("*.yaml")}


SCALE_UP = """
import os, ray, sys, time
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
@ray.remote(num_cpus=1)
def pool():
    return ray.get_runtime_context().get_node_labels()["pool"]
nodes = [pool.options(label_selector={"pool": name}).remote() for name in ("accuracy", "timing")]
print(*ray.get(nodes, timeout=150))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_local_cluster_starts_and_grows_by_pool(tmp_path: Path) -> None:
    short = tempfile.mkdtemp(prefix="r", dir="/tmp")  # the path of a socket must be short
    port = str(free_ports(1)[0])
    config = tmp_path / "local.yaml"
    config.write_text((FOLDER / "local.yaml").read_text().replace("6399", port))
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}", "--num-cpus=0",
        f"--labels={POOL_LABEL}=head,{AUTOSCALED_LABEL}=timing", "--block", f"--autoscaling-config={config}",
        f"--temp-dir={short}", "--include-dashboard=false", "--disable-usage-stats",
        "--object-store-memory=100000000",
    ]  # fmt: skip
    token = tmp_path / "token"
    token.write_text("0" * 64)
    token.chmod(0o600)
    without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = without | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    with (tmp_path / "log").open("w") as log:
        head = subprocess.Popen(
            command, env=environment | {"RAY_FAKE_CLUSTER": "1"}, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            client = [sys.executable, "-c", SCALE_UP, f"127.0.0.1:{port}"]
            done = None
            for _ in range(30):  # until the head listens
                done = subprocess.run(client, env=environment, capture_output=True, text=True, check=False)
                if done.returncode == 0 or head.poll() is not None:
                    break
            assert done is not None
            assert done.stdout.split() == ["accuracy", "timing"], done.stderr + (tmp_path / "log").read_text()
        finally:
            head.send_signal(signal.SIGTERM)
            head.wait(90)
            shutil.rmtree(short, ignore_errors=True)
