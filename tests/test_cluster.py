"""A real Ray cluster of several hosts: brought up, checked, trained on, taken down."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import json_lines
from hosts import Hosts, missing, wait_until
from test_study import check_records_agree

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
AUTH = "export RAY_AUTH_MODE=token"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    if what := missing():
        pytest.skip(f"needs {what}")
    with Hosts(2, tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def shared(corpus, tiny_toml, tmp_path_factory):
    """The folder that every host sees: a corpus, settings and studies."""
    return tmp_path_factory.mktemp("shared")


class Cluster:
    """`docs/local.yaml` with these hosts filled in, brought up by `ray up`."""

    def __init__(self, hosts, folder, shared) -> None:
        self.hosts, self.shared = hosts, shared
        self.head, *self.workers = hosts.hosts
        config = yaml.safe_load((ROOT / "docs/local.yaml").read_text())
        config["provider"] |= {"head_ip": self.head.address, "worker_ips": [host.address for host in self.workers]}
        config["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
        config |= {"min_workers": len(self.workers), "max_workers": len(self.workers)}
        self.path = folder / "cluster.yaml"
        self.path.write_text(yaml.safe_dump(config))
        self.home = folder / "home"
        (self.home / ".ray").mkdir(parents=True)
        (self.home / ".ray/auth_token").write_text("0123456789abcdef" * 4)

    def ray(self, *arguments, timeout=240):
        environment = os.environ | {"HOME": str(self.home), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
        return subprocess.run(
            [BIN / "ray", *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=timeout
        )

    def num_nodes(self):
        code = "import ray; ray.init(address='auto', log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"
        done = self.hosts.ssh(self.head, f'{AUTH}; {BIN}/python -c "{code}"')
        return int(done.stdout.strip() or 0)

    def study(self, arguments):
        """Run a study command on the head, in the shared folder."""
        return self.ray("exec", self.path, f"{AUTH}; cd {self.shared} && study {arguments}", timeout=600)


@pytest.fixture(scope="module")
def cluster(hosts, shared, tmp_path_factory):
    cluster = Cluster(hosts, tmp_path_factory.mktemp("laptop"), shared)
    up = cluster.ray("up", cluster.path, "--yes", "--no-config-cache")
    assert up.returncode == 0, up.stdout + up.stderr
    # Workers join when the head has set them up.
    wait_until(lambda: cluster.num_nodes() == 2, 120, interval=3)
    yield cluster
    down = cluster.ray("down", cluster.path, "--yes")
    assert down.returncode == 0, down.stdout + down.stderr
    for host in [host for host in hosts.hosts if host.process.poll() is None]:
        # A worker that lost its head ends by itself within a minute.
        wait_until(lambda host=host: not hosts.ssh(host, "pgrep -x raylet").stdout, 120, interval=3)


def options(corpus, tiny_toml, name, trials=8, epochs=4):
    return (
        f"run {corpus.folder} --config {tiny_toml} --set training.epochs={epochs} --sampler random --scheduler none"
        f" --trials {trials} --concurrent 4 --name {name} --address auto"
    )


def test_ray_up_and_a_study_across_both_hosts(cluster, shared, corpus, tiny_toml, call):
    done = cluster.study(options(corpus, tiny_toml, "both", trials=12, epochs=8))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json_lines(call("report", "both", "--json", "--storage", shared / "runs")[1])
    assert [line["state"] for line in report] == ["complete"] * 12
    check_records_agree(shared / "runs", "both", report)
    code, out, err = call("export", "both", "--to", shared / "both.parquet", "--storage", shared / "runs")
    assert code == 0, out + err
    import polars as pl

    nodes = set(pl.read_parquet(shared / "both.parquet")["node"])
    assert nodes == {host.name for host in cluster.hosts.hosts}


def start_study(cluster, arguments):
    """Start a study command on the head and return at once."""
    command = f"{AUTH}; cd {cluster.shared} && exec {BIN}/study {arguments}"
    return subprocess.Popen(
        ["ssh", "-i", cluster.hosts.key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
         "-o", "LogLevel=ERROR", f"root@{cluster.head.address}", command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def has_trained_on(cluster, name, host):
    """Say whether a trial of a study has an epoch from a host."""
    journals = (cluster.shared / "runs" / name).glob("trials/*/*.jsonl")
    return any(host.name in journal.read_text() for journal in journals)


def check_whole(cluster, name, trials, call):
    report = json_lines(call("report", name, "--json", "--storage", cluster.shared / "runs")[1])
    assert [line["trial"] for line in report] == list(range(trials))
    assert {line["state"] for line in report} == {"complete"}
    check_records_agree(cluster.shared / "runs", name, report)
    return report


def test_a_job_goes_on_by_itself_is_listed_and_can_be_stopped_and_gone_on_with(
    cluster, shared, corpus, tiny_toml, call
):
    def on_head(command):
        return cluster.hosts.ssh(cluster.head, f"{AUTH}; {BIN}/study {command}")

    arguments = (
        options(corpus, tiny_toml, "job", trials=8, epochs=30).removeprefix("run ").removesuffix(" --address auto")
    )
    done = on_head(f"submit --folder {shared} {arguments}")
    assert done.returncode == 0, done.stderr
    name = done.stderr.split(":")[0]
    wait_until(lambda: list((shared / "runs/job/trials").glob("*/*.jsonl")), 120, interval=1)
    listed = on_head("jobs").stdout
    assert name in listed
    assert "RUNNING" in listed
    assert on_head(f"stop {name}").returncode == 0
    wait_until(lambda: "STOPPED" in on_head("jobs").stdout, 60, interval=2)
    followed = on_head(f"submit --folder {shared} --follow --resume job")
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert "study job: 8 trials" in followed.stdout
    check_whole(cluster, "job", 8, call)
    assert "cannot be used" in on_head("stop nothing-of-that-name").stderr


def test_a_host_that_does_not_see_the_storage_is_named_before_anything_starts(cluster, corpus, tiny_toml):
    storage = cluster.head.folder / "only-here"
    worker = cluster.workers[0]
    # The same path, but another folder on the worker.
    cluster.hosts.ssh(worker, f"mkdir -p {storage}; mount -t tmpfs none {storage}")
    done = cluster.study(options(corpus, tiny_toml, "lost") + f" --storage {storage}")
    assert done.returncode == 1
    assert f"{worker.name} ({worker.address}): cannot use the study's folder" in done.stdout
    assert cluster.head.name + " (" not in done.stdout
    assert not list(storage.glob("*/study.json"))


def test_a_host_cut_off_for_a_minute_and_back(cluster, corpus, tiny_toml, call):
    running = start_study(cluster, options(corpus, tiny_toml, "cut", trials=8, epochs=150))
    worker = cluster.workers[0]
    wait_until(lambda: has_trained_on(cluster, "cut", worker), 180, interval=1)
    worker.unplug()
    time.sleep(60)
    assert running.poll() is None
    worker.plug_in()
    out, _ = running.communicate(timeout=600)
    assert running.returncode == 0, out
    check_whole(cluster, "cut", 8, call)


def test_a_host_lost_for_good(cluster, corpus, tiny_toml, call):
    wait_until(lambda: cluster.num_nodes() == 2, 180, interval=3)
    running = start_study(cluster, options(corpus, tiny_toml, "lost", trials=8, epochs=100))
    wait_until(lambda: has_trained_on(cluster, "lost", cluster.workers[0]), 180, interval=1)
    cluster.workers[0].power_off()
    out, _ = running.communicate(timeout=600)
    assert running.returncode == 0, out
    check_whole(cluster, "lost", 8, call)
