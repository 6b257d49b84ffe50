"""A real Ray cluster of several hosts: brought up, checked, trained on, taken down."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import json_lines
from hosts import SUBNET, Hosts, missing, wait_until
from metadata import Metadata
from studies import check_records_agree

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
AUTH = "export RAY_AUTH_MODE=token"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    if what := missing():
        pytest.skip(f"needs {what}")
    with Hosts(3, tmp_path_factory.mktemp("hosts")) as hosts:
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
        for part in ("head_start_ray_commands", "worker_start_ray_commands"):
            # One trial on each: the hosts share one machine's cores.
            config[part] = [command.replace("ray start", "ray start --num-cpus=1") for command in config[part]]
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

    def up(self):
        done = self.ray("up", self.path, "--yes", "--no-config-cache")
        assert done.returncode == 0, done.stdout + done.stderr
        # Workers join when the head has set them up.
        wait_until(lambda: self.num_nodes() == len(self.hosts.hosts), 180, interval=5)

    def down(self):
        done = self.ray("down", self.path, "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        for host in [host for host in self.hosts.hosts if host.process.poll() is None]:
            # A worker that lost its head ends by itself within a minute.
            wait_until(lambda host=host: not self.hosts.ssh(host, "pgrep -x raylet").stdout, 120, interval=3)

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
    cluster.up()
    return cluster


def options(corpus, tiny_toml, name, trials=8, epochs=4):
    return (
        f"run {corpus.folder} --config {tiny_toml} --set training.epochs={epochs} --sampler random --scheduler none"
        f" --trials {trials} --concurrent 3 --name {name} --address auto"
    )


def test_ray_up_and_a_study_across_all_hosts(cluster, shared, corpus, tiny_toml, call):
    done = cluster.study(options(corpus, tiny_toml, "across", trials=12, epochs=8))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json_lines(call("report", "across", "--json", "--storage", shared / "runs")[1])
    assert [line["state"] for line in report] == ["complete"] * 12
    check_records_agree(shared / "runs", "across", report)
    code, out, err = call("export", "across", "--to", shared / "across.parquet", "--storage", shared / "runs")
    assert code == 0, out + err
    import polars as pl

    nodes = set(pl.read_parquet(shared / "across.parquet")["node"])
    assert nodes == {host.name for host in cluster.hosts.hosts}


def start_study(cluster, arguments):
    """Start a study command on the head and return at once."""
    command = f"{AUTH}; cd {cluster.shared} && exec {BIN}/study {arguments}"
    return subprocess.Popen(
        [
            "ssh",
            "-i",
            cluster.hosts.key,
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
            f"root@{cluster.head.address}",
            command,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def has_trained_on(cluster, name, host):
    """Say whether a trial of a study has an epoch from a host."""
    journals = (cluster.shared / "runs" / name).glob("trials/*/*.jsonl")
    return any(host.name in journal.read_text() for journal in journals)


def num_epochs_on(cluster, name, host):
    journals = (cluster.shared / "runs" / name).glob("trials/*/*.jsonl")
    return sum(host.name in line for journal in journals for line in journal.read_text().splitlines())


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


@pytest.mark.fault("worker node cut off from the network for a minute", 1)
def test_a_host_cut_off_for_a_minute_and_back(cluster, corpus, tiny_toml, call):
    running = start_study(cluster, options(corpus, tiny_toml, "cut", trials=8, epochs=150))
    worker = cluster.workers[0]
    wait_until(lambda: has_trained_on(cluster, "cut", worker), 240, interval=1)
    worker.unplug()
    time.sleep(60)
    assert running.poll() is None
    worker.plug_in()
    out, _ = running.communicate(timeout=600)
    assert running.returncode == 0, out
    check_whole(cluster, "cut", 8, call)


@pytest.mark.fault("worker node announced to be taken away (spot), its trials moved", 1)
@pytest.mark.long
def test_a_host_whose_end_is_announced_gives_its_trials_away(cluster, corpus, tiny_toml, call):
    worker = cluster.workers[1]
    with Metadata(f"{SUBNET}.1") as metadata:
        watch = (
            f"{AUTH}; nohup {BIN}/study spot --metadata {metadata.url} --every 0.5 > {worker.folder}/spot.log 2>&1 &"
        )
        assert cluster.hosts.ssh(worker, watch).returncode == 0
        running = start_study(cluster, options(corpus, tiny_toml, "spot", trials=8, epochs=80))
        wait_until(lambda: has_trained_on(cluster, "spot", worker), 240, interval=1)
        metadata.ends = True
        # Well before the two minutes are over nothing trains there, and nothing is placed there again.
        wait_until(lambda: "go on elsewhere" in (worker.folder / "spot.log").read_text(), 60)
        wait_until(lambda: not cluster.hosts.ssh(worker, "pgrep -f ^ray::ImplicitFunc").stdout, 60)
        # What it reported last is on record by then.
        time.sleep(3)
        before = num_epochs_on(cluster, "spot", worker)
        out, _ = running.communicate(timeout=600)
    assert running.returncode == 0, out
    check_whole(cluster, "spot", 8, call)
    assert num_epochs_on(cluster, "spot", worker) == before


def test_ray_down_ends_every_ray_and_ray_up_brings_it_back(cluster):
    cluster.down()
    cluster.up()


@pytest.mark.fault("worker node lost for good", 1)
@pytest.mark.long
def test_a_host_lost_for_good(cluster, corpus, tiny_toml, call):
    running = start_study(cluster, options(corpus, tiny_toml, "lost", trials=8, epochs=60))
    lost = cluster.workers[1]
    wait_until(lambda: has_trained_on(cluster, "lost", lost), 240, interval=1)
    lost.power_off()
    out, _ = running.communicate(timeout=600)
    assert running.returncode == 0, out
    check_whole(cluster, "lost", 8, call)


@pytest.mark.fault("head lost with its driver, while a worker still trains", 1)
@pytest.mark.long
def test_a_head_lost_and_the_study_gone_on_with_on_another_host(cluster, corpus, tiny_toml, call):
    running = start_study(cluster, options(corpus, tiny_toml, "headless", trials=8, epochs=80))
    worker = cluster.workers[0]
    wait_until(lambda: has_trained_on(cluster, "headless", worker), 240, interval=1)
    cluster.head.power_off()
    running.kill()
    # At once: trials of the lost cluster may go on for a while where it is gone on with.
    done = cluster.hosts.ssh(worker, f"{AUTH}; cd {cluster.shared} && {BIN}/study run --resume headless")
    assert done.returncode == 0, done.stdout + done.stderr
    check_whole(cluster, "headless", 8, call)
