"""A Ceph cluster of one node on 127.0.0.1, in the foreground: monitor, object store in a sparse file, S3 gateway.

`deploy.servers.s3` runs this as one process, so that the three daemons live and die together.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deploy.servers import (
    S3_ACCESS_KEY,
    S3_SECRET_KEY,
    ServerFailed,
    exit_on_signals,
    stopped,
    tethered,
    usable_port,
    wait_for_end,
)

# Paths are relative to the cluster's folder, where every daemon runs: a unix socket's path may have 107 bytes only.
CONFIGURATION = """[global]
fsid = {fsid}
# The monitor's address is part of the cluster's state, so it is chosen once.
mon_host = [v2:127.0.0.1:{monitor_port}]
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_bind_msgr1 = false
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
run_dir = run
admin_socket = run/$name
pid_file =
log_to_file = false
log_to_stderr = true
mon_cluster_log_to_file = false
crash_dir = run
debug_rgw = 0
debug_rocksdb = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_autoscale_mode = off
# Few placement groups: each costs milliseconds at every start, and there is one disk to spread them over.
osd_pool_default_pg_num = 4
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_crit = 0
[mon]
mon_data = mon
# The gateway makes its pools one after another; each waits for this interval, which is 1 s by default.
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
[osd]
osd_data = osd
osd_objectstore = bluestore
bluestore_block_create = true
bluestore_block_size = {block_bytes}
bluestore_cache_autotune = false
bluestore_cache_size = 134217728
osd_heartbeat_grace = 60
[client]
rgw_data = rgw
# Without authentication there are no keys for the default, encrypted mode.
ms_mon_client_mode = crc
rgw_run_sync_thread = false
rgw_enable_usage_log = false
rgw_rados_pool_pg_num_min = 4
rgw_gc_obj_min_wait = 60
rgw_gc_processor_period = 60
rgw_override_bucket_index_max_shards = 1
"""


def serve(data: Path, port: int, gigabytes: int) -> None:
    """Run the cluster in `data` until a signal (SystemExit). Raises ServerFailed when a daemon ends by itself."""
    cluster, made = data / "cluster", data / "made"
    if fresh := not made.exists():
        shutil.rmtree(cluster, ignore_errors=True)  # a first start that was interrupted cannot be resumed
        for name in ("mon", "osd", "rgw", "run"):
            (cluster / name).mkdir(parents=True)
    os.chdir(cluster)
    with ExitStack() as stack:
        if fresh:
            _make_monitor(gigabytes)
        stack.enter_context(_daemon("ceph-mon", "-i", "a"))
        if fresh:
            _make_store()
        store = stack.enter_context(_daemon("ceph-osd", "-i", "0"))
        while not _active():  # a gateway that starts before the store is active loses about 10 s
            if store.poll() is not None:
                raise ServerFailed("ceph-osd ended")
            time.sleep(0.05)
        if fresh:
            _make_user()
            made.touch()
        # Without tcp_nodelay every small answer waits 40 ms for the client's delayed acknowledgement.
        frontend = f"--rgw-frontends=beast endpoint=127.0.0.1:{port} tcp_nodelay=1"
        stack.enter_context(_daemon("radosgw", "-n", "client.rgw", frontend))
        wait_for_end()


@contextmanager
def _daemon(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    # Open files are left open for the caller's lock, which must be held for as long as any daemon runs.
    foreground = tethered([*command, "-c", "ceph.conf", "-f"])
    process = subprocess.Popen(foreground, stdin=subprocess.DEVNULL, close_fds=False)
    try:
        yield process
    finally:
        stopped(process, seconds=10)


def _run(*command: str) -> None:
    subprocess.run(tethered(command), check=True, stdin=subprocess.DEVNULL, timeout=120)


def _make_monitor(gigabytes: int) -> None:
    fsid, port = str(uuid.uuid4()), usable_port()
    text = CONFIGURATION.format(fsid=fsid, monitor_port=port, block_bytes=gigabytes << 30)
    Path("ceph.conf").write_text(text)
    _run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{port}]", "monmap")
    _run("ceph-mon", "-c", "ceph.conf", "-i", "a", "--mkfs", "--monmap", "monmap")


def _make_store() -> None:
    name = str(uuid.uuid4())
    _run("ceph", "-c", "ceph.conf", "--connect-timeout", "60", "osd", "new", name, "0")
    _run("ceph-osd", "-c", "ceph.conf", "-i", "0", "--mkfs", "--osd-uuid", name)


def _make_user() -> None:
    keys = [f"--access-key={S3_ACCESS_KEY}", f"--secret-key={S3_SECRET_KEY}"]
    # A test-suite makes a bucket for each test, and the default limit is 1000.
    user = ["--uid=robustreps", "--display-name=robustreps", "--max-buckets=0"]
    _run("radosgw-admin", "-c", "ceph.conf", "user", "create", *user, *keys)


def _active() -> bool:
    """Whether the object store says so on its socket, which exists before the monitor knows."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect("run/osd.0")
            connection.sendall(b'{"prefix": "status"}\0')
            answer = connection.makefile("rb").read()
        return bool(json.loads(answer[4:])["state"] == "active")  # after four bytes of length
    except (OSError, ValueError, KeyError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a Ceph cluster of one node with its S3 gateway.")
    parser.add_argument("--data", type=Path, required=True, help="folder that keeps its data")
    parser.add_argument("--port", type=int, required=True, help="the gateway's port on 127.0.0.1")
    parser.add_argument("--gigabytes", type=int, default=20, help="size of the sparse file that holds the objects")
    args = parser.parse_args()
    exit_on_signals()
    serve(args.data.resolve(), args.port, args.gigabytes)


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.SubprocessError, ServerFailed) as error:
        sys.exit(f"ceph: {error}")
