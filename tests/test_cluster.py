"""A real Ray cluster of several hosts: brought up, checked, trained on, taken down."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import TINY, json_lines
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
    for host in hosts.hosts:
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
    assert TINY
