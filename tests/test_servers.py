"""The servers that every other test trusts: they answer, keep their data through SIGKILL, and outlive no one."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from redis import Redis

from deploy import servers
from deploy.servers import S3Endpoint
from tests.servers import Bucket, installed, postgres_execute, s3_client

pytestmark = pytest.mark.e2e

DAEMONS = {"postgres", "redis-server", "ceph-mon", "ceph-osd", "radosgw"}
APPEND_SECONDS = 1.5  # Redis' file may be a second behind


def test_postgres_answers(postgres_server: str) -> None:
    assert postgres_execute(postgres_server, "SELECT 1") == [(1,)]


def test_each_test_gets_a_migrated_database_of_its_own(postgres_url: str, postgres_server: str) -> None:
    assert postgres_execute(postgres_url, "SELECT count(*) FROM alembic_version") == [(1,)]
    assert postgres_execute(postgres_server, "SELECT to_regclass('alembic_version')") == [(None,)]


def test_redis_answers(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        assert client.keys() == []
        client.set("key", "value")
        assert client.get("key") == b"value"
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_s3_gives_back_what_was_put(s3_bucket: Bucket) -> None:
    with s3_client(s3_bucket.endpoint) as client:
        client.put_object(Bucket=s3_bucket.name, Key="a/key", Body=b"value")
        assert client.get_object(Bucket=s3_bucket.name, Key="a/key")["Body"].read() == b"value"


def test_s3_refuses_a_wrong_secret(s3_bucket: Bucket) -> None:
    with s3_client(s3_bucket.endpoint, "wrong") as client, pytest.raises(ClientError) as caught:
        client.put_object(Bucket=s3_bucket.name, Key="key", Body=b"value")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert caught.value.response["Error"]["Code"] == "SignatureDoesNotMatch"


def test_chromium_runs(chromium_path: str) -> None:
    assert b"Chrom" in subprocess.run([chromium_path, "--version"], capture_output=True, check=True).stdout


def test_redis_keeps_its_data_through_sigkill(servers_dir: Path) -> None:
    folder = servers_dir / "killed-redis"
    with installed(), servers.redis(folder) as url, Redis.from_url(url) as client:
        client.set("kept", "42")
        time.sleep(APPEND_SECONDS)
        os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
    with servers.redis(folder) as url, Redis.from_url(url) as client:
        assert client.get("kept") == b"42"


def test_no_server_outlives_a_killed_parent_and_the_next_one_finds_all_data(servers_dir: Path) -> None:
    with _stack(servers_dir / "stack") as (parent, ready):
        family = _descendants(parent.pid)
        assert {_name(pid) for pid in family} >= DAEMONS
        postgres_execute(ready["database_url"], "CREATE TABLE kept AS SELECT 42 AS answer")
        with Redis.from_url(ready["broker_url"]) as broker:
            broker.set("kept", "42")
        with s3_client(_endpoint(ready)) as store:
            store.create_bucket(Bucket="kept")
            store.put_object(Bucket="kept", Key="key", Body=b"42")
        time.sleep(APPEND_SECONDS)
        parent.send_signal(signal.SIGSTOP)  # or it would see Postgres end, and end the others in order
        os.kill(int((servers_dir / "stack/postgres/pid").read_text()), signal.SIGKILL)
        parent.kill()  # the kernel then kills redis-server and Ceph's daemons with the same signal
        _wait_until_gone(family)
    with _stack(servers_dir / "stack") as (parent, ready):
        assert postgres_execute(ready["database_url"], "SELECT answer FROM kept") == [(42,)]
        with Redis.from_url(ready["broker_url"]) as broker:
            assert broker.get("kept") == b"42"
        with s3_client(_endpoint(ready)) as store:
            assert store.get_object(Bucket="kept", Key="key")["Body"].read() == b"42"
        family = _descendants(parent.pid)
        parent.terminate()
        assert parent.wait(60) == 0
        assert not [name for name in map(_name, family) if name]


def test_a_folder_is_locked_until_the_last_of_its_servers_children_is_gone(servers_dir: Path) -> None:
    folder = servers_dir / "locked"
    with installed(), servers.redis(folder), (folder / "pid").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (folder / "pid").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_server_that_cannot_start_shows_the_end_of_its_log(servers_dir: Path) -> None:
    folder = servers_dir / "broken"
    folder.mkdir()
    (folder / "appendonlydir").touch()
    with installed(), pytest.raises(servers.ServerFailed, match="appendonlydir"), servers.redis(folder):
        pass


def test_a_missing_program_is_named_with_its_remedy(servers_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(servers.ServerMissing) as caught, servers.redis(servers_dir / "missing"):
        pass
    message = "redis-server is not installed (Debian package redis-server): run sh deploy/install-servers.sh"
    assert str(caught.value) == message


@contextmanager
def _stack(data: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    command = [sys.executable, "-m", "deploy.servers", "--data", str(data)]
    root = Path(servers.__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        try:
            assert parent.stdout is not None
            yield parent, json.loads(parent.stdout.readline())
        finally:
            parent.kill()


def _endpoint(ready: dict[str, str]) -> S3Endpoint:
    return S3Endpoint(ready["s3_endpoint"], ready["s3_access_key"], ready["s3_secret_key"], ready["s3_region"])


def _descendants(pid: int) -> set[int]:
    children = {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return children.union(*map(_descendants, children))


def _name(pid: int) -> str:
    """The name of a running process; empty when it is gone or only waits to be reaped."""
    try:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except FileNotFoundError:
        return ""
    return "" if status["State"].startswith("Z") else status["Name"]


def _wait_until_gone(family: set[int], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while alive := [name for name in map(_name, family) if name]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.05)
