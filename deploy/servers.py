"""Real Postgres, Redis and S3 servers on loopback, without containers: for the developer's stack and the test-suite.

Each server is a context: it answers when the block begins, and neither it nor a child of it outlives the caller. Its
folder keeps its data for the next start, beside `log` and `pid`. Linux only; `deploy/install-servers.sh` has the rest.
"""

import argparse
import fcntl
import http.client
import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

import psycopg

DATABASE = "robustreps"
BUILDING = "robustreps-postgres-"  # how the name of a folder begins in which initdb works
# No secret: who can reach this machine's loopback may also use its Postgres without a password.
S3_ACCESS_KEY, S3_SECRET_KEY, S3_REGION = "robustreps", "robustreps-loopback", "us-east-1"


@dataclass(frozen=True)
class S3Endpoint:
    url: str
    access_key: str
    secret_key: str
    region: str


class ServerMissing(RuntimeError):  # noqa: N818 - a fact about the machine
    """A server's program is not installed."""

    def __init__(self, what: str, package: str) -> None:
        super().__init__(f"{what} is not installed (Debian package {package}): run sh deploy/install-servers.sh")


class ServerFailed(RuntimeError):  # noqa: N818 - what happened
    """A server did not become ready."""


@contextmanager
def postgres(data: Path, port: int = 0, *, durable: bool = True) -> Iterator[str]:
    """The SQLAlchemy URL of an existing database. Not durable: a crash of the machine loses data, one of the server
    does not. Raises ServerMissing or ServerFailed."""
    initdb = find("initdb", "postgresql", *_newest_first("/usr/lib/postgresql"))
    run_as = _unprivileged()
    # Not synchronous_commit=off: that keeps commits in the server's memory, which a killed server takes along.
    fast = [] if durable else ["-c", "fsync=off", "-c", "full_page_writes=off"]
    with _held(data) as lock:
        cluster, port = _cluster(data, initdb, run_as, durable), usable_port(port)
        command = [str(Path(initdb).resolve().with_name("postgres")), "-D", str(cluster), "-p", str(port), *fast]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=200"]
        # A killed caller: QUIT still ends the backends and frees shared memory, which KILL would leave behind.
        command = tethered(command, death="QUIT", run_as=run_as)
        with _served(command, lock, lambda: _has_database(port), stop=signal.SIGINT):
            yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/{DATABASE}"


@contextmanager
def redis(data: Path, port: int = 0) -> Iterator[str]:
    """The URL of an append-only Redis that refuses writes rather than evict. Raises ServerMissing or ServerFailed."""
    binary = find("redis-server", "redis-server")
    with _held(data) as lock:
        port = usable_port(port)
        command = [binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(data.resolve())]
        command += ["--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"]
        with _served(tethered(command), lock, lambda: _pongs(port)):
            yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def s3(data: Path, port: int = 0) -> Iterator[S3Endpoint]:
    """A Ceph cluster of one node with its S3 gateway. Raises ServerMissing or ServerFailed."""
    for binary in ("ceph-mon", "ceph-osd", "radosgw"):
        find(binary, binary)
    with _held(data) as lock:
        port = usable_port(port)
        command = [sys.executable, "-m", "deploy.s3_server", "--data", str(data.resolve()), "--port", str(port)]
        with _served(tethered(command), lock, lambda: _answers(port), seconds=180):
            yield S3Endpoint(f"http://127.0.0.1:{port}", S3_ACCESS_KEY, S3_SECRET_KEY, S3_REGION)


def find(binary: str, package: str, *places: str) -> str:
    """The path of a program on PATH or in `places`. Raises ServerMissing."""
    path = shutil.which(binary, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *places]))
    if path is None:
        raise ServerMissing(binary, package)
    return path


def usable_port(port: int = 0) -> int:
    """`port` if nothing listens there, or any such port if 0. Raises ServerFailed."""
    # Below the range of outgoing connections, any of which could else take the port before the server binds it.
    for candidate in [port] if port else random.sample(range(10_000, 32_000), 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return candidate
    raise ServerFailed(f"port {port} is taken" if port else "no free port")


def tethered(command: Sequence[str], death: str = "KILL", run_as: str = "") -> list[str]:
    """`command` under a kernel promise: the signal `death` once the thread that starts it ends, however it ends."""
    identity = [f"--reuid={run_as}", f"--regid={pwd.getpwnam(run_as).pw_gid}", "--init-groups"] if run_as else []
    # The caller may be gone before the promise is given; the shell then has another parent, and starts nothing.
    guard = ["sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid())]
    return [find("setpriv", "util-linux"), *identity, f"--pdeathsig={death}", *guard, *command]


def stopped(process: subprocess.Popen[bytes], by: int = signal.SIGTERM, seconds: float = 15) -> None:
    """End a process in order, or by force when it takes too long."""
    process.send_signal(by)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for_end() -> NoReturn:
    """Sleep until a signal asks for an orderly end (SystemExit), or a child ends by itself (ServerFailed)."""
    child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    raise ServerFailed(f"a server ended by itself (process {child.si_pid if child else '?'}): see its log")


def exit_on_signals() -> None:
    """Make SIGTERM and SIGINT raise SystemExit(0), once: a second one must not interrupt the orderly end."""

    def leave(*_: object) -> NoReturn:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)


@contextmanager
def _held(data: Path) -> Iterator[IO[str]]:
    """The lock on a server's folder, waiting for a predecessor that is still dying. Raises ServerFailed."""
    data.mkdir(parents=True, exist_ok=True)
    with (data / "pid").open("a+") as lock:
        deadline = time.monotonic() + 15
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ServerFailed(f"{data} is in use by process {(data / 'pid').read_text()}") from None
                time.sleep(0.05)
        yield lock


@contextmanager
def _served(
    command: list[str], lock: IO[str], ready: Callable[[], bool], seconds: float = 60, stop: int = signal.SIGTERM
) -> Iterator[None]:
    """The server, ready. It and its children inherit the lock: who gets it next knows that all of them are gone."""
    log = Path(lock.name).with_name("log")
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[1],
            pass_fds=[lock.fileno()],
            start_new_session=True,  # a terminal's Ctrl-C is for the caller, who then stops its servers in order
        )
    try:
        lock.truncate(0)
        lock.write(str(process.pid))
        lock.flush()
        deadline = time.monotonic() + seconds
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                state = f"took over {seconds:.0f} s" if process.poll() is None else f"ended with {process.returncode}"
                raise ServerFailed(f"the server {state}; the end of {log}:\n{_tail(log)}")
            time.sleep(0.05)
        yield
    finally:
        stopped(process, stop)
        lock.truncate(0)


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _newest_first(root: str) -> list[str]:
    versions = [int(place.name) for place in Path(root).glob("*") if place.name.isdigit()]
    return [f"{root}/{version}/bin" for version in sorted(versions, reverse=True)]


def _unprivileged() -> str:
    """The account for Postgres, which refuses to run as root; empty: the caller's own. Raises ServerMissing."""
    if os.geteuid() != 0:
        return ""
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        raise ServerMissing("the account postgres", "postgresql") from None


def _cluster(data: Path, initdb: str, run_as: str, durable: bool) -> Path:
    """The database files in `data`, made in another place and then moved, so that half of them are never found."""
    cluster = data.resolve() / "cluster"
    if not cluster.exists():
        for half in data.glob(f"{BUILDING}*"):
            shutil.rmtree(half)
        reachable = subprocess.run(tethered(["test", "-x", str(cluster.parent)], run_as=run_as)).returncode == 0
        # A clone in root's home is closed to the account postgres: its files then live elsewhere, behind a link.
        building = Path(tempfile.mkdtemp(prefix=BUILDING, dir=data if reachable else "/var/lib")).resolve()
        if run_as:
            shutil.chown(building, run_as)
        fast = [] if durable else ["--no-sync"]
        command = [initdb, "-D", str(building), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", *fast]
        with (data / "log").open("ab") as log:
            made = subprocess.run(tethered(command, run_as=run_as), stdout=log, stderr=subprocess.STDOUT, cwd="/")
        if made.returncode:
            raise ServerFailed(f"initdb failed; the end of {data / 'log'}:\n{_tail(data / 'log')}")
        if reachable:
            building.rename(cluster)
        else:
            cluster.symlink_to(building)
    # The lock says that no process of a server is left here; Postgres would take an unreaped one's number for a life.
    (cluster / "postmaster.pid").unlink(missing_ok=True)
    return cluster.resolve()


def _has_database(port: int) -> bool:
    """Whether Postgres answers; the service's database then exists."""
    server = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    try:
        with psycopg.connect(server, autocommit=True, connect_timeout=5) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                connection.execute(f"CREATE DATABASE {DATABASE}")
        return True
    except psycopg.OperationalError:
        return False


def _pongs(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(100).startswith(b"+PONG")  # -LOADING while it reads its file
    except OSError:
        return False


def _answers(port: int) -> bool:
    try:  # not by urllib, which would ask a proxy
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description="Run Postgres, Redis and S3 in the foreground.")
    parser.add_argument("--data", type=Path, required=True, help="folder that keeps their data")
    for name in ("postgres", "redis", "s3"):
        parser.add_argument(f"--{name}-port", type=int, default=0, help="default: any free one")
    args = parser.parse_args()
    exit_on_signals()
    with ExitStack() as stack:
        start = stack.enter_context
        database = start(postgres(args.data / "postgres", args.postgres_port))
        broker = start(redis(args.data / "redis", args.redis_port))
        store = start(s3(args.data / "s3", args.s3_port))
        ready = {"database_url": database, "broker_url": broker, "s3_endpoint": store.url, "s3_region": store.region}
        print(json.dumps({**ready, "s3_access_key": store.access_key, "s3_secret_key": store.secret_key}), flush=True)
        wait_for_end()


if __name__ == "__main__":
    try:
        main()
    except (ServerMissing, ServerFailed) as error:
        sys.exit(str(error))
