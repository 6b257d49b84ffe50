"""Hosts on one machine: each in its own network, PID, mount and UTS namespace, with its own home and sshd.

Needs root, iproute2, util-linux and openssh-server; `missing()` says what is not there.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SUBNET = "10.213.7"
BRIDGE = "pvae-br"
SSHD = """
Port 22
ListenAddress {address}
HostKey {home}/host_key
PidFile none
PermitRootLogin yes
StrictModes no
UsePAM no
AuthorizedKeysFile {home}/authorized_keys
"""


def missing() -> str:
    """Return what keeps this machine from having hosts; nothing if they can be made."""
    if os.geteuid() != 0:
        return "root"
    absent = [name for name in ("ip", "unshare", "sshd", "ssh", "rsync") if shutil.which(name) is None]
    if absent:
        return ", ".join(absent)
    probe = subprocess.run(["ip", "netns", "add", "pvae-probe"], capture_output=True)
    subprocess.run(["ip", "netns", "del", "pvae-probe"], capture_output=True)
    if probe.returncode != 0:
        return "network namespaces"
    with tempfile.TemporaryDirectory() as folder:
        for name in ("home", "work"):
            (Path(folder) / name).mkdir()
        script = f"mount -t overlay home -o lowerdir=/root,upperdir={folder}/home,workdir={folder}/work /root"
        probe = subprocess.run(
            ["unshare", "--mount", "--pid", "--uts", "--fork", "--mount-proc", "sh", "-c", script], capture_output=True
        )
    return "" if probe.returncode == 0 else "namespaces with overlay mounts"


def ip(*arguments) -> None:
    subprocess.run(["ip", *map(str, arguments)], check=True, capture_output=True)


class Host:
    """One host; `folder` holds its home and temporary files."""

    def __init__(self, number: int, folder: Path, public_key: str) -> None:
        self.name, self.address, self.folder = f"pvae-host{number}", f"{SUBNET}.{10 + number}", folder
        self.link = f"pvae-v{number}"
        for name in ("home", "work", "tmp"):
            (folder / name).mkdir(parents=True)
        (folder / "home/.bash_profile").write_text(f"export PATH={Path(sys.executable).parent}:$PATH\n")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host_key"], check=True)
        (folder / "authorized_keys").write_text(public_key)
        (folder / "sshd_config").write_text(SSHD.format(address=self.address, home=folder))
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)
        ip("netns", "add", self.name)
        ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self.link, "master", BRIDGE, "up")
        ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")
        ip("-n", self.name, "link", "set", "lo", "up")
        ip("-n", self.name, "route", "add", "default", "via", f"{SUBNET}.1")
        Path("/tmp/ray").mkdir(exist_ok=True)
        Path("/run/sshd").mkdir(exist_ok=True)
        script = (
            # Its own home, which shows what this machine's has: Python may lie there.
            f"hostname {self.name}; mount --bind {folder / 'tmp'} /tmp/ray;"
            f" mount -t overlay home -o lowerdir=/root,upperdir={folder / 'home'},workdir={folder / 'work'} /root;"
            f" exec {shutil.which('sshd')} -D -f {folder / 'sshd_config'}"
        )
        self.process = subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                self.name,
                "unshare",
                "--mount",
                "--pid",
                "--uts",
                "--fork",
                "--mount-proc",
                "--kill-child",
                "sh",
                "-c",
                script,
            ],
            stdout=subprocess.DEVNULL,
            stderr=(folder / "sshd.log").open("w"),
        )

    def unplug(self) -> None:
        """Cut the host off from the network."""
        ip("link", "set", self.link, "down")

    def plug_in(self) -> None:
        """Connect it again."""
        ip("link", "set", self.link, "up")

    def power_off(self) -> None:
        """End every process of the host at once."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)
        subprocess.run(["ip", "link", "del", self.link], capture_output=True)


class Hosts:
    """Some hosts on a bridge that this machine is on too; a context."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number, self.folder = number, folder

    def __enter__(self) -> "Hosts":
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", f"{SUBNET}.1/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        self.key = self.folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        public = self.key.with_suffix(".pub").read_text()
        self.hosts = [Host(number, self.folder / f"host{number}", public) for number in range(1, self.number + 1)]
        for host in self.hosts:
            wait_until(lambda host=host: self.ssh(host, "true").returncode == 0, 20)
        return self

    def __exit__(self, *error) -> None:
        for host in self.hosts:
            host.power_off()
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)

    def ssh(self, host: Host, command: str) -> subprocess.CompletedProcess:
        """Run a shell command on a host."""
        return subprocess.run(
            [
                "ssh",
                "-i",
                self.key,
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
                "-o",
                "LogLevel=ERROR",
                "-o",
                "ConnectTimeout=5",
                f"root@{host.address}",
                command,
            ],
            capture_output=True,
            text=True,
            timeout=600,
        )


def wait_until(condition, seconds: float, interval: float = 0.2) -> None:
    """Wait for a condition; fail if it does not hold in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(interval)
