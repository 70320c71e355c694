"""Servers by TLS: Redis with a user that may do no more than the service needs, Postgres, S3. Real ones."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kombu import Exchange, Producer, Queue
from kombu.exceptions import ContentDisallowed, OperationalError
from pydantic import ValidationError
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError as DatabaseError

from deploy import servers
from service.broker import TASK, Broker, celery_app
from service.db import Database
from service.settings import Settings
from service.storage import S3Storage, StorageError
from tests import tls
from tests.deploy.chart import ROOT
from tests.fixtures import inversion, s3_settings
from tests.servers import Bucket, installed, postgres_execute
from tests.stack import Stack

PASSWORD = "a-password-of-tests"


class Guarded(NamedTuple):
    """A Redis that speaks TLS alone, to those that show a certificate, and knows one user."""

    url: str
    signed: tls.Signed

    def settings(self, **changes: Any) -> Settings:
        given: dict[str, Any] = {"broker_url": self.url, "database_url": "postgresql+psycopg://nobody@127.0.0.1:1/none"}
        files = {"broker_ca": self.signed.ca, "broker_cert": self.signed.cert, "broker_key": self.signed.key}
        return Settings(**given | files | changes)

    def client(self, user: str = "robustreps") -> Redis:
        files = {"ssl_ca_certs": self.signed.ca, "ssl_certfile": self.signed.cert, "ssl_keyfile": self.signed.key}
        return Redis.from_url(self.url.replace("robustreps", user), **{name: str(path) for name, path in files.items()})


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tls.Signed:
    return tls.authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def guarded(signed: tls.Signed, servers_dir: Path) -> Iterator[Guarded]:
    """As deploy/redis/users.acl has it."""
    users = servers_dir / "users.acl"
    users.write_text((ROOT / "deploy/redis/users.acl").read_text().replace("PASSWORD", PASSWORD)
                     + f"user admin on >{PASSWORD} ~* +@all\n")  # fmt: skip
    with installed(), tls.redis(servers_dir, signed, users) as port:
        yield Guarded(f"rediss://robustreps:{PASSWORD}@localhost:{port}/0", signed)


def sent(settings: Settings) -> int:
    """How many messages wait, once there is one more."""
    broker = Broker(celery_app(settings))
    try:
        broker.send(("shard", 0))
        return broker.depth(0)
    finally:
        broker.close()


def test_messages_pass_by_tls_with_a_certificate_of_ones_own(guarded: Guarded) -> None:
    assert sent(guarded.settings()) >= 1


REFUSED: dict[str, dict[str, Any]] = {
    "a broker that nobody known has signed": {"broker_ca": None},
    "one by another name": {"name": "127.0.0.1"},
    "no certificate to show": {"broker_cert": None, "broker_key": None},
    "another password": {"password": "guessed"},
    "no user": {"user": ""},
    "no TLS": {"scheme": "redis", "broker_ca": None, "broker_cert": None, "broker_key": None},
}


@pytest.mark.parametrize("case", REFUSED)
def test_nothing_is_sent_to_a_broker_with(guarded: Guarded, case: str) -> None:
    changes = dict(REFUSED[case])
    url = guarded.url.replace("localhost", changes.pop("name", "localhost"))
    url = url.replace(PASSWORD, changes.pop("password", PASSWORD)).replace(
        "robustreps:", changes.pop("user", "robustreps") + ":"
    )
    url = url.replace("rediss", changes.pop("scheme", "rediss"))
    with pytest.raises((OperationalError, RedisError, OSError)):
        sent(guarded.settings(broker_url=url, **changes))


UNCHECKED = {
    "ssl_cert_reqs=none": "rediss://localhost:{}/0?ssl_cert_reqs=none",
    "an authority of the URL's own": "rediss://localhost:{}/0?a=b&ss%6c_ca_certs=/dev/null",
    "capitals": "REDISS://localhost:{}/0",
    "a scheme of two": "rediss+redis://localhost:{}/0",
    "a second server": "redis://127.0.0.1:1/0;rediss://localhost:{}/0",
}


@pytest.mark.parametrize("case", UNCHECKED)
def test_no_url_leads_to_a_broker_whose_certificate_nobody_checks(
    signed: tls.Signed, redis_server: str, case: str
) -> None:
    plain, database = make_url(redis_server), "postgresql+psycopg://nobody@127.0.0.1:1/none"
    with tls.before(plain.port or 0, signed) as port:  # it asks nobody for a certificate
        checked = Settings(broker_url=f"rediss://localhost:{port}/0", broker_ca=signed.ca, database_url=database)
        assert sent(checked) >= 1
        with pytest.raises(ValidationError, match="broker_url"):
            sent(Settings(broker_url=UNCHECKED[case].format(port), database_url=database))


def test_certificates_need_a_broker_that_speaks_tls(signed: tls.Signed) -> None:
    with pytest.raises(ValidationError, match="must be rediss://"):
        Settings(broker_ca=signed.ca)


def test_a_worker_takes_nothing_but_json(guarded: Guarded) -> None:
    app = celery_app(guarded.settings())
    assert (app.conf.accept_content, app.conf.worker_enable_remote_control) == (["json"], False)
    with app.connection_for_write() as connection, connection.channel() as channel:
        queue = Queue("shards-test", Exchange(""), "shards-test", channel=channel)
        for form in ("pickle", "yaml"):
            Producer(channel).publish({"task": TASK}, routing_key="shards-test", serializer=form)
            message = queue.get(accept=app.conf.accept_content)
            assert message is not None
            with pytest.raises(ContentDisallowed):
                message.decode()


FORBIDDEN: dict[str, tuple[Any, ...]] = {
    "keys of others": ("GET", "another"), "all keys": ("KEYS", "*"), "the settings": ("CONFIG", "GET", "*"),
    "its file": ("CONFIG", "SET", "dir", "/tmp"), "emptying it": ("FLUSHALL",), "ending it": ("SHUTDOWN", "NOSAVE"),
    "other users": ("ACL", "LIST"), "copies of all": ("REPLICAOF", "127.0.0.1", "1"), "other keys": ("DEL", "another"),
    "modules": ("MODULE", "LIST"), "what others send": ("MONITOR",),
    "channels": ("PUBLISH", "x", "y"), "a script on other keys": ("EVAL", "return redis.call('get', KEYS[1])", 1, "x"),
    "a script that ends it": ("EVAL", "return redis.call('flushall')", 0),
}  # fmt: skip


@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_services_user_may_not_touch(guarded: Guarded, what: str) -> None:
    with (
        guarded.client() as redis,
        pytest.raises((NoPermissionError, RedisError), match=r"permission|NOPERM|can't run"),
    ):
        redis.execute_command(*FORBIDDEN[what])


@pytest.mark.e2e
def test_a_job_runs_through_a_broker_by_tls_with_that_user_alone(stack: Stack, guarded: Guarded) -> None:
    settings = guarded.settings()
    names = {"broker_url", "broker_ca", "broker_cert", "broker_key"}
    with guarded.client("admin") as admin:
        admin.execute_command("ACL", "LOG", "RESET")
    stack.environment |= settings.environment(names)
    api = stack.processes.pop()
    stack.end(api)
    stack.start("serve")
    stack.wait_until(lambda: _ready(stack))
    stack.start("worker")
    job = stack.client.submit(**inversion(steps=5))["id"]
    assert stack.succeeded(job)
    with guarded.client("admin") as admin:
        asked = {str(entry["object"]) for entry in admin.acl_log()}
    assert asked <= {"client|setinfo"}, "the service asked for what it may not do"


def _ready(stack: Stack) -> bool:
    from tests.stack import ready

    return ready(stack.client) and stack.client.request("GET", "/readyz").json()["broker"] == "ok"


def test_postgres_is_asked_by_tls_as_its_url_says(signed: tls.Signed, servers_dir: Path) -> None:
    with installed(), servers.postgres(servers_dir / "postgres-tls", durable=False) as url:
        for kind, path in (("cert", signed.cert), ("key", signed.key)):
            own = servers_dir / f"postgres.{kind}"
            shutil.copyfile(path, own)
            own.chmod(0o600)
            shutil.chown(own, "postgres")
            postgres_execute(url, f"ALTER SYSTEM SET ssl_{kind}_file = '{own}'")
        postgres_execute(url, "ALTER SYSTEM SET ssl = on")
        postgres_execute(url, "SELECT pg_reload_conf()")
        checked = make_url(url).set(host="localhost", query={"sslmode": "verify-full", "sslrootcert": str(signed.ca)})
        _until(lambda: _encrypted(checked.render_as_string(False)))
        with pytest.raises(DatabaseError, match="certificate"):
            _encrypted(checked.set(host="127.0.0.1").render_as_string(False))
        with pytest.raises(DatabaseError, match="certificate"):
            _encrypted(checked.update_query_dict({"sslrootcert": "system"}).render_as_string(False))


def _encrypted(url: str) -> bool:
    database = Database(url)
    try:
        with database.reading() as session:
            return bool(session.scalar(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")))
    finally:
        database.close()


def _until(condition: Any) -> None:
    """The server reads its settings again in its own time."""
    end = time.monotonic() + 60
    while True:
        try:
            assert condition()
            return
        except DatabaseError:
            assert time.monotonic() < end
            time.sleep(0.1)


def test_s3_is_asked_by_tls_and_its_certificate_is_checked(signed: tls.Signed, s3_bucket: Bucket) -> None:
    with tls.before(int(s3_bucket.endpoint.url.rsplit(":", 1)[1]), signed) as port:
        values = s3_settings(s3_bucket) | {"s3_endpoint": f"https://localhost:{port}"}
        storage = S3Storage(s3_bucket.name, Settings(**values, s3_ca=signed.ca))
        storage.put("a", b"by TLS", "text/plain")
        assert storage.get("a") == b"by TLS"
        with pytest.raises(StorageError, match=r"certificate|SSL"):
            S3Storage(s3_bucket.name, Settings(**values)).check()
