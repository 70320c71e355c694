"""The whole service on real servers, without Docker: Postgres, Redis, S3, an API and a worker, until Ctrl-C.

Data stays in `robustreps-data/up` between runs.
"""

import os
import secrets
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import boto3
from botocore.exceptions import ClientError

from deploy import servers
from deploy.servers import S3Endpoint
from service.access import registry
from service.access.principal import DEFAULT, Scope
from service.access.secret import once
from service.db import Database

DATA = Path("robustreps-data/up")
KEY = DATA.parent / "key"
"""Where the command line and the client look for it."""
BUCKET = "robustreps"
PORT = int(os.environ.get("ROBUSTREPS_PORT", "8000"))
CURL = """
  curl -s http://127.0.0.1:{port}/v1/jobs -H "Authorization: Bearer $(cat {key})" \\
    -H 'Content-Type: application/json' -d '{{
    "kind": "inversion", "model": "cifar10-robust", "preset": "cifar",
    "targets": {{"source": "dataset", "dataset": "cifar10-sample", "indices": [0, 1, 2, 3]}}}}'
"""


def make_bucket(endpoint: S3Endpoint) -> None:
    client = boto3.client(
        "s3", endpoint_url=endpoint.url, region_name=endpoint.region,
        aws_access_key_id=endpoint.access_key, aws_secret_access_key=endpoint.secret_key,
    )  # fmt: skip
    try:
        client.head_bucket(Bucket=BUCKET)
    except ClientError:
        client.create_bucket(Bucket=BUCKET)


def environment(database: str, broker: str, endpoint: S3Endpoint) -> dict[str, str]:
    """What the API and the worker read their settings from."""
    return os.environ | {
        "ROBUSTREPS_DATABASE_URL": database,
        "ROBUSTREPS_BROKER_URL": broker,
        "ROBUSTREPS_STORAGE_URL": f"s3://{BUCKET}",
        "ROBUSTREPS_S3_ENDPOINT": endpoint.url,
        "ROBUSTREPS_S3_ACCESS_KEY": endpoint.access_key,
        "ROBUSTREPS_S3_SECRET_KEY": endpoint.secret_key,
        "ROBUSTREPS_PORT": str(PORT),
    }


def first_key(database: str, secret: str) -> str:
    """A key of the default tenant for everything, of a service whose keys are hashed under this secret."""
    with closing(Database(database)) as db, db.transaction() as session:
        return registry.create_key(session, DEFAULT, "made by `make up`", list(Scope), None, secret.encode()).text


def start(stack: ExitStack, command: str, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """One process of the service, which is told to end, and waited for, when the stack unwinds."""
    robustreps = Path(sys.executable).with_name("robustreps")
    process = subprocess.Popen([robustreps, command], env=env, start_new_session=True)
    stack.callback(servers.stopped, process)
    return process


def wait_ready(process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=5).close()
        except (URLError, OSError):
            if process.poll() is not None:
                sys.exit("the API ended; its log is above")
            time.sleep(0.1)
        else:
            return
    sys.exit("the API is not ready after a minute")


def main() -> None:
    servers.exit_on_signals()
    data = DATA.absolute()
    data.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        print("starting Postgres, Redis and S3 ...", flush=True)
        database = stack.enter_context(servers.postgres(data / "postgres"))
        broker = stack.enter_context(servers.redis(data / "redis"))
        endpoint = stack.enter_context(servers.s3(data / "s3"))
        make_bucket(endpoint)
        env = environment(database, broker, endpoint)
        env["ROBUSTREPS_SECRET_KEY"] = once(data / "secret", secrets.token_hex(32))
        subprocess.run([Path(sys.executable).with_name("robustreps"), "migrate"], env=env, check=True)
        KEY.unlink(missing_ok=True)  # an embedded service's, or an earlier run's
        once(KEY, first_key(database, env["ROBUSTREPS_SECRET_KEY"]))
        api = start(stack, "serve", env)
        worker = start(stack, "worker", env)
        wait_ready(api)
        url = f"http://127.0.0.1:{PORT}"
        print(f"\n  dashboard  {url}/\n  reference  {url}/docs\n  database   {database}\n  broker     {broker}")
        print(f"  S3         {endpoint.url}  bucket {BUCKET}, key {endpoint.access_key}")
        print(f"  key        in {KEY}, to sign in at {url}/ui/login; the command line finds it there")
        print(f"\nSubmit a job:\n{CURL.format(port=PORT, key=KEY)}")
        print(f"Ctrl-C stops everything; data stays in {DATA}.", flush=True)
        while api.poll() is None and worker.poll() is None:
            time.sleep(0.5)
        sys.exit("a process ended; its log is above")


if __name__ == "__main__":
    try:
        main()
    except (servers.ServerMissing, servers.ServerFailed) as error:
        sys.exit(str(error))
