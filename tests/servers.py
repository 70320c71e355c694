"""Fixtures: real servers, started once a session, and a fresh database, Redis or bucket for each test.

A server that is not installed fails the tests, everywhere: skipped, they would look as good as passed.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import boto3
import psycopg
import pytest
from redis import Redis
from sqlalchemy import make_url

from deploy import servers
from deploy.browser import program
from deploy.servers import S3Endpoint

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

TEMPLATE = "migrated"


@dataclass(frozen=True)
class Bucket:
    endpoint: S3Endpoint
    name: str


@contextmanager
def installed() -> Iterator[None]:
    """Fail the test, rather than skip it, when a server is missing."""
    try:
        yield
    except servers.ServerMissing as error:
        pytest.fail(str(error), pytrace=False)


def postgres_execute(url: str, statement: str) -> list[tuple[object, ...]]:
    """Run one statement outside of a transaction; its rows, if it has any."""
    conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def s3_client(endpoint: S3Endpoint, secret_key: str | None = None) -> Iterator["S3Client"]:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint.url,
        region_name=endpoint.region,
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=secret_key or endpoint.secret_key,
    )
    try:
        yield client
    finally:
        client.close()


def prepare_template(url: str) -> None:
    """Bring the database that every test's own is a copy of to the newest schema."""
    from service.db import migrate  # here: a test of a server alone needs nothing of the service

    migrate(url)


@pytest.fixture(scope="session")
def servers_dir() -> Iterator[Path]:
    """A folder for servers' data. In root's tests Postgres runs as another account, which may not enter tmp_path."""
    with tempfile.TemporaryDirectory(prefix="robustreps-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres_server(servers_dir: Path) -> Iterator[str]:
    with installed(), servers.postgres(servers_dir / "postgres", durable=False) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    """The name of a migrated database. Migrating takes much longer than copying the result."""
    postgres_execute(postgres_server, f"CREATE DATABASE {TEMPLATE}")
    prepare_template(make_url(postgres_server).set(database=TEMPLATE).render_as_string(hide_password=False))
    return TEMPLATE


@contextmanager
def new_database(postgres_server: str, template: str) -> Iterator[str]:
    """A copy of the template, for as long as it is used."""
    name = f"test_{uuid4().hex}"
    postgres_execute(postgres_server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
    postgres_execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """A database of the test's own, with the newest schema and no rows."""
    with new_database(postgres_server, postgres_template) as url:
        yield url


@pytest.fixture(scope="session")
def redis_server(servers_dir: Path) -> Iterator[str]:
    with installed(), servers.redis(servers_dir / "redis") as url:
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The session's Redis, emptied."""
    with Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture(scope="session")
def s3_server(servers_dir: Path) -> Iterator[S3Endpoint]:
    with installed(), servers.s3(servers_dir / "s3") as endpoint:
        yield endpoint


@pytest.fixture
def s3_bucket(s3_server: S3Endpoint) -> Bucket:
    """A new bucket; it goes with the server at the session's end."""
    bucket = Bucket(s3_server, f"test-{uuid4().hex}")
    with s3_client(s3_server) as client:
        client.create_bucket(Bucket=bucket.name)
    return bucket


@pytest.fixture(scope="session")
def chromium_path() -> str:
    with installed():
        return program()
