"""Builds the images where there is no registry, and runs them: `make image-check` (root, a network for packages).

The base image is made by debootstrap, of the release that the Dockerfile names; the Dockerfile is then built as it is,
by buildah in a chroot. Both images run on real servers as Kubernetes would run them: their own user, no capability, a
root that is read-only but for two folders. A job is computed, the health checks are asked, SIGTERM ends both.
"""

import argparse
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import servers
from deploy.up import environment, first_key, make_bucket
from service.client import Client

ROOT = Path(__file__).parents[1]
SUITES = {"12": "bookworm", "13": "trixie", "14": "forky"}
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
DATA = "/var/lib/robustreps"
USER = 10001
JOB: dict[str, Any] = {"kind": "inversion", "model": "cifar10-robust", "preset": "cifar", "steps": 20,
                       "targets": {"source": "dataset", "dataset": "cifar10-sample", "indices": [0, 1]}}  # fmt: skip
# Run by sh in mount and process tables of its own: $1 the image's root, $2 a folder for its data, the rest the command.
CONTAINER = f"""
set -eu
root=$1 data=$2; shift 2
mount --bind "$root" "$root"
for made in proc dev dev/shm tmp {DATA.strip("/")}; do mkdir -p "$root/$made"; done
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --bind "$data" "$root{DATA}"
mount -t proc proc "$root/proc"
cp /etc/resolv.conf /etc/hosts "$root/etc/"
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs --bounding-set=-all,+sys_chroot,+setuid,+setgid \
    /usr/sbin/chroot --userspec={USER}:{USER} --groups={USER} "$root" sh -c 'cd {DATA} && exec "$@"' sh "$@"
"""


class Failed(AssertionError):  # noqa: N818 - what happened
    """An image is not what it should be."""


def check(holds: bool, claim: str) -> None:
    print(f"  {'ok  ' if holds else 'FAIL'}  {claim}", flush=True)
    if not holds:
        raise Failed(claim)


@dataclass(frozen=True)
class Buildah:
    """buildah with a storage of its own."""

    folder: Path

    def __call__(self, *arguments: str, quiet: bool = False) -> str:
        storage = self.folder / "storage.conf"
        lines = ("[storage]", 'driver = "overlay"', f'graphroot = "{self.folder}/store"',
                 f'runroot = "{self.folder}/run"', "")  # fmt: skip
        storage.write_text("\n".join(lines))
        own = {"CONTAINERS_STORAGE_CONF": str(storage), "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(self.folder)}
        command = [servers.find("buildah", "buildah"), *arguments]
        done = subprocess.run(command, env=os.environ | own, stdout=subprocess.PIPE if quiet else None, text=True)
        if done.returncode:
            raise Failed(f"buildah {' '.join(arguments)} ended with {done.returncode}")
        return done.stdout.strip() if quiet else ""


@dataclass(frozen=True)
class Image:
    """A built image: its files, what it runs and with which variables."""

    root: Path
    config: Mapping[str, Any]

    def run(self, data: Path, settings: Mapping[str, str], *command: str) -> "subprocess.Popen[bytes]":
        """A container of it; `command` in place of the image's own arguments."""
        data.mkdir(parents=True, exist_ok=True)
        os.chown(data, USER, USER)
        own = dict(line.split("=", 1) for line in self.config["Env"])
        env = own | {"TINI_SUBREAPER": "1"} | dict(settings)
        words = command or (*self.config["Entrypoint"], *self.config["Cmd"])
        inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", CONTAINER, "sh"]
        return subprocess.Popen([*inside, str(self.root), str(data), *words], env=env)

    def ends(self, data: Path, settings: Mapping[str, str], *command: str) -> int:
        return self.run(data, settings, *command).wait(300)


def bootstrap(buildah: Buildah, base: str) -> None:
    """The image that the Dockerfile begins with, by its name, from Debian's packages."""
    suite = SUITES[base.partition(":")[2].partition(".")[0]]
    files = buildah.folder / "base"
    shutil.rmtree(files, ignore_errors=True)
    subprocess.run([servers.find("debootstrap", "debootstrap"), "--variant=minbase", suite, str(files)], check=True)
    print(f"base: Debian {(files / 'etc/debian_version').read_text().strip()} for {base}")
    # What this machine trusts, the build has to trust, too.
    trusted = files / "usr/local/share/ca-certificates"
    trusted.mkdir(parents=True, exist_ok=True)
    shutil.copy(BUNDLE, trusted / "host.crt")
    (files / "etc/uv").mkdir()
    (files / "etc/uv/uv.toml").write_text("native-tls = true\n")
    subprocess.run(["tar", "-C", str(files), "-cf", str(buildah.folder / "base.tar"), "."], check=True)
    (buildah.folder / "Base").write_text('FROM scratch\nADD base.tar /\nCMD ["bash"]\n')
    buildah("bud", "--quiet", "--tag", base, "--file", str(buildah.folder / "Base"), str(buildah.folder))


@contextmanager
def opened(buildah: Buildah, name: str) -> Iterator[Image]:
    container = buildah("from", "--pull-never", name, quiet=True)
    try:
        about = json.loads(buildah("inspect", container, quiet=True))["Docker"]["config"]
        yield Image(Path(buildah("mount", container, quiet=True)), about)
    finally:
        buildah("rm", container, quiet=True)


def size(folder: Path) -> str:
    return subprocess.run(["du", "-sh", str(folder)], capture_output=True, text=True).stdout.split()[0]


def check_files(name: str, image: Image) -> None:
    config = image.config
    check(config["User"] == f"{USER}:{USER}", f"{name}: runs as {USER}")
    check(config["StopSignal"] == "SIGTERM", f"{name}: is ended by SIGTERM")
    check(config["Healthcheck"]["Test"][:3] == ["CMD", "robustreps", "health"], f"{name}: has its health check")
    torch = list((image.root / "opt/robustreps").glob("lib/python3*/site-packages/torch"))
    check(bool(torch) == (name == "worker"), f"{name}: has {'' if torch else 'no '}torch")
    print(f"        {size(image.root / 'opt/robustreps')} of packages, {size(image.root)} in all (this base included)")


def wait(claim: str, holds: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(1)
    check(held, claim)


def check_running(api: Image, worker: Image, data: Path, exits: ExitStack) -> None:
    """A job, from a request to its pictures, by both."""
    start = exits.enter_context
    database, broker = start(servers.postgres(data / "postgres")), start(servers.redis(data / "redis"))
    endpoint = start(servers.s3(data / "s3"))
    make_bucket(endpoint)
    named = {n: v for n, v in environment(database, broker, endpoint).items() if n.startswith("ROBUSTREPS_")}
    port = servers.usable_port()
    secret = secrets.token_hex(32)
    settings = named | {"ROBUSTREPS_PORT": str(port), "ROBUSTREPS_SECRET_KEY": secret}
    of_api, of_worker = data / "api", data / "worker"
    check(api.ends(of_api, settings, "robustreps", "migrate") == 0, "api: migrates")
    check(api.ends(of_api, settings, "python", "-c", "import torch") == 1, "api: cannot import torch")
    check(api.ends(of_api, settings, "sh", "-c", ": > /opt/robustreps/new") != 0, "api: cannot write to its image")
    running = [api.run(of_api, settings), worker.run(of_worker, settings)]
    for process in running:
        exits.callback(servers.stopped, process)
    wait("api: its health check passes", lambda: api.ends(of_api, settings, "robustreps", "health") == 0)
    asked = ("robustreps", "health", "--worker")
    wait("worker: its health check passes", lambda: worker.ends(of_worker, settings, *asked) == 0)
    with Client(f"http://127.0.0.1:{port}", key=first_key(database, secret)) as client:
        job = client.wait(client.submit(**JOB)["id"], timeout=300)
        check(job["state"] == "succeeded", "a job succeeds")
        again = client.submit(**JOB | {"steps": 50_000})["id"]
        wait("a long job runs", lambda: client.job(again)["progress"]["steps_done"] > 0)
        began = time.monotonic()
        running[1].terminate()
        check(running[1].wait(60) == 0, f"worker: SIGTERM ends it in order ({time.monotonic() - began:.1f} s)")
        logs = [line["event"] for line in client.request("GET", f"/v1/jobs/{again}/logs").json()["logs"]]
        check("released" in logs and "lease_lost" not in logs, "worker: it let go of the job")
    running[0].terminate()
    check(running[0].wait(60) in (0, -15, 143), "api: SIGTERM ends it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/image-check"), help="30 GB are needed there")
    args = parser.parse_args()
    servers.exit_on_signals()
    folder = args.data.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    buildah = Buildah(folder)
    found = re.search(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    assert found
    with ExitStack() as exits:
        exits.callback(shutil.rmtree, folder, ignore_errors=True)
        exits.callback(subprocess.run, ["umount", "--quiet", str(folder / "store/overlay")])
        bootstrap(buildah, found[1])
        images = {}
        for target in ("api", "worker"):
            tag = f"robustreps-{target}"
            buildah("bud", "--format", "docker", "--pull-never", "--target", target, "--tag", tag, str(ROOT))
            images[target] = exits.enter_context(opened(buildah, tag))
            check_files(target, images[target])
        check_running(images["api"], images["worker"], folder / "data", exits)
    print("image-check: the images build and work")


if __name__ == "__main__":
    try:
        main()
    except (servers.ServerMissing, servers.ServerFailed, Failed) as error:
        sys.exit(str(error))
