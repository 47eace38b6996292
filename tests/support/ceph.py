"""Ceph's gateway for S3 on this machine: a monitor, a store in memory and the gateway, as Debian packages them."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.support.processes import wait_for
from tests.support.s3 import BUCKET, KEY, SECRET, with_rclone

PACKAGES = "ceph-common ceph-mon ceph-osd radosgw"
PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
# One copy of everything, in few groups: it is for a test. All files are below one folder.
_SETTINGS = """\
[global]
fsid = {fsid}
mon_host = v2:127.0.0.1:{mon_port}
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_allow_insecure_global_id_reclaim = true
osd_pool_default_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
osd_objectstore = memstore
memstore_device_bytes = 1073741824
keyring = {folder}/keyring
mon_data = {folder}/mon
osd_data = {folder}/osd
rgw_data = {folder}/rgw
run_dir = {folder}
crash_dir = {folder}
log_file = {folder}/$name.log
mon_cluster_log_file = {folder}/cluster.log
pid_file =
admin_socket =
[mon]
mon_data_avail_crit = 1
[client.rgw.a]
rgw_frontends = beast endpoint=127.0.0.1:{port}
"""
_MON = "allow *"
# Whose key may do what: at the monitor, and at the store.
_KEYS = {
    "mon.": (_MON, ""),
    "client.admin": (_MON, "allow *"),
    "client.rgw.a": (_MON, "allow *"),
    "osd.0": ("allow profile osd", "allow *"),
}


def missing_programs() -> list[str]:
    return [program for program in PROGRAMS if shutil.which(program) is None]


@contextlib.contextmanager
def ceph_gateway(folder: Path) -> Iterator[int]:
    """A gateway with a bucket and a user who may use it; yields its port."""
    ceph = _Ceph(folder)
    try:
        ceph.start()
        yield ceph.port
    finally:
        ceph.stop()


class _Ceph:
    def __init__(self, folder: Path) -> None:
        self._folder, self._id = folder, str(uuid.uuid4())
        self._mon_port, self.port = _free_ports(2)
        self._env = {"PATH": os.environ["PATH"], "CEPH_CONF": str(folder / "ceph.conf")}
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for name in ("", "mon", "osd", "rgw"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        text = _SETTINGS.format(fsid=self._id, mon_port=self._mon_port, port=self.port, folder=self._folder)
        (self._folder / "ceph.conf").write_text(text)
        keyring, monmap = str(self._folder / "keyring"), str(self._folder / "monmap")
        self._run("ceph-authtool", "--create-keyring", keyring)
        for name, (mon, osd) in _KEYS.items():
            caps = ["--cap", "mon", mon, *(["--cap", "osd", osd] if osd else [])]
            self._run("ceph-authtool", keyring, "--gen-key", "-n", name, *caps)
        address = f"[v2:127.0.0.1:{self._mon_port}]"
        self._run("monmaptool", "--create", "--fsid", self._id, "--addv", "a", address, monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        self._begin("ceph-mon", "-f", "-i", "a")
        self._run("ceph", "--connect-timeout", "60", "osd", "new", self._id, "0")
        self._run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", self._id)
        self._begin("ceph-osd", "-f", "-i", "0")
        user = ["user", "create", "--uid", "lab", "--display-name", "lab", "--access-key", KEY, "--secret", SECRET]
        self._run("radosgw-admin", *user)
        self._begin("radosgw", "-f", "-n", "client.rgw.a")
        wait_for(self._answers, 100)
        with_rclone(self.port, "mkdir", f"store:{BUCKET}")

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, f"{command[:2]}: {done.stdout[-1000:]}{done.stderr[-1000:]}"

    def _begin(self, *command: str) -> None:
        with (self._folder / f"{command[0]}.out").open("wb") as output:
            self._running.append(subprocess.Popen(command, env=self._env, stdout=output, stderr=output))

    def _answers(self) -> bool:
        assert all(process.poll() is None for process in self._running), f"see the logs in {self._folder}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return True
        return False

    def stop(self) -> None:
        for process in reversed(self._running):
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens at, and that no connection gets by itself (below ip_local_port_range)."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found
