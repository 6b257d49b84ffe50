"""A cluster that grows for a study and shrinks after it: Ray's own autoscaler, nodes that are processes of a CPU each."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import json_lines
from hosts import wait_until
from studies import check_records_agree

pytestmark = pytest.mark.cluster

BIN = Path(sys.executable).parent
ADDRESS = "127.0.0.1:6379"  # where the provider's nodes look for their head
WATCH = """
import ray, sys, time
ray.init(address="{address}", log_to_driver=False, logging_level="ERROR")
while True:
    print(sum(node["Alive"] for node in ray.nodes()), flush=True)
    time.sleep(0.5)
"""


def config():
    node = {"node_config": {}, "min_workers": 0}
    return {
        "cluster_name": "fake",
        "max_workers": 2,
        "idle_timeout_minutes": 1,
        "upscaling_speed": 100.0,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            # Several at once; nodes that are processes are known by their ids, and have no ssh.
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            # The provider's own name for the head that is there.
            "ray.head.default": node | {"resources": {"CPU": 0}, "max_workers": 0},
            "worker": node | {"resources": {"CPU": 1}, "max_workers": 2},
        },
        "head_node_type": "ray.head.default",
        # What `ray up` fills in.
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{
            f"{name}_commands": []
            for name in (
                "initialization",
                "setup",
                "head_setup",
                "worker_setup",
                "head_start_ray",
                "worker_start_ray",
            )
        },
    }


@pytest.fixture
def growing(tmp_path):
    """The environment of a head without CPUs, whose cluster may grow by two nodes with a CPU each."""
    # Where `ray up` leaves it on the head.
    path = tmp_path / "ray_bootstrap_config.yaml"
    path.write_text(yaml.safe_dump(config()))
    environment = os.environ | {
        "HOME": str(tmp_path),
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": "/tmp/pvae-grow",
    }
    Path("/tmp/pvae-grow").mkdir(exist_ok=True)
    head = [
        BIN / "ray",
        "start",
        "--head",
        "--block",
        "--port",
        "6379",
        "--num-cpus",
        "0",
        "--include-dashboard",
        "false",
        "--node-ip-address",
        "127.0.0.1",
        f"--autoscaling-config={path}",
    ]
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(head, env=environment, stdout=log, stderr=log)
    wait_until(lambda: "Ray runtime started" in (tmp_path / "head.log").read_text(), 60)
    yield environment
    process.terminate()
    process.wait(30)
    # Not `ray stop`, which ends every Ray of this machine.
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if each.environ().get("RAY_TMPDIR") == environment["RAY_TMPDIR"]:
                each.kill()


@pytest.mark.long
def test_a_study_grows_its_cluster_at_once_and_leaves_it_as_it_was(growing, corpus, tiny_toml, tmp_path, call):
    counts = tmp_path / "counts"
    with counts.open("w") as stream:
        code = WATCH.format(address=ADDRESS)
        watch = subprocess.Popen([sys.executable, "-c", code], stdout=stream, env=growing)
    try:
        wait_until(lambda: counts.read_text().startswith("1\n"), 60)
        command = f"""{BIN}/study run {corpus.folder} --config {tiny_toml} --set training.epochs=40 --sampler random
            --scheduler none --trials 6 --concurrent 2 --cpus-per-trial 1 --name x --address {ADDRESS}
            --storage {tmp_path}"""
        done = subprocess.run(command.split(), env=growing, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        wait_until(lambda: counts.read_text().endswith("\n1\n"), 240)
    finally:
        watch.kill()
    seen = [int(line) for line in counts.read_text().split()]
    grown = [now for before, now in zip([0, *seen], seen, strict=False) if now != before]
    assert max(seen) == 3
    # Both nodes were asked for at once: two may join a moment apart, none waits for a trial of the other.
    assert grown in ([1, 3, 1], [1, 2, 3, 1], [1, 3, 2, 1], [1, 2, 3, 2, 1]), grown
    report = json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])
    assert [line["state"] for line in report] == ["complete"] * 6
    check_records_agree(tmp_path, "x", report)
