"""Log lines: one an event, whoever writes it, with what is bound to its thread and without any secret."""

import json
import subprocess
import sys
import time

import pytest

from service.logs import redacted
from service.settings import Settings

PROGRAM = """
import logging, structlog
from service import logs
from service.settings import Settings
settings = Settings(log_format="{form}", log_level="{level}", database_url="postgresql://u:pass%2Fword9@db/x",
                    broker_url="redis://:hunter22@redis/0", s3_secret_key="topsecret-1")
logs.start(settings, service="api")
log = structlog.get_logger()
structlog.contextvars.bind_contextvars(job="job_1", shard="job_1.0", epoch=2)
log.debug("detail")
log.info("claimed", items=3, reason="cannot reach postgresql://u:pass%2Fword9@db/x with topsecret-1")
logging.getLogger("uvicorn.error").warning("from uvicorn: %s", "redis://:hunter22@redis/0")
logging.getLogger("celery.worker").error("from celery: pass/word9")
logging.getLogger("botocore").info("not told")
try:
    raise ValueError("hunter22 is wrong")
except ValueError:
    log.exception("failed")
"""


def written(form: str, level: str) -> str:
    program = PROGRAM.format(form=form, level=level)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr


def test_every_line_is_an_event_in_json_with_what_is_bound_whoever_wrote_it() -> None:
    lines = [json.loads(line) for line in written("json", "INFO").splitlines()]
    assert [line["event"].partition(":")[0] for line in lines] == ["claimed", "from uvicorn", "from celery", "failed"]
    for line in lines:
        bound = {name: line[name] for name in ("job", "shard", "epoch", "service")}
        assert bound == {"job": "job_1", "shard": "job_1.0", "epoch": 2, "service": "api"}
        assert line["timestamp"].endswith("Z")
    assert [line["level"] for line in lines] == ["info", "warning", "error", "error"]
    assert "ValueError" in lines[-1]["exception"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_what_the_settings_keep_secret_is_in_no_line(form: str) -> None:
    told = written(form, "DEBUG")
    for secret in ("pass%2Fword9", "pass/word9", "hunter22", "topsecret-1"):
        assert secret not in told
    assert told.count("***") >= 5


ODD = "a\"b'c\\dé [e"


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_secret_is_in_no_line_however_it_is_quoted(form: str) -> None:
    program = f"""
import structlog
from service import logs
from service.settings import Settings
odd = {ODD!r}
logs.start(Settings(log_format="{form}", s3_secret_key=odd))
log = structlog.get_logger()
log.info("plain", reason=odd)
log.info("quoted", reason=repr(odd), both=repr(f"it's {{odd}}"), held=[odd])
try:
    raise ValueError({{"x": odd}})
except ValueError:
    log.exception("failed")
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr
    assert told.count("***") == 5, told
    assert not [part for part in ("b'c", "b\\'c", "\\\\d") if part in told], told


@pytest.mark.parametrize(
    ("url", "passwords"),
    [
        ("postgresql+psycopg://u:ab/cd#ef@h/d", {"ab/cd#ef"}),
        ("postgresql+psycopg://u:ab[cd@h/d", {"ab[cd"}),
        ("postgresql+psycopg://u:ab?cd%23@h/d", {"ab?cd%23", "ab?cd#"}),
        ("postgresql+psycopg://h/d?user=u&password=a%2Bb+c", {"a%2Bb+c", "a+b+c", "a+b c"}),
        ("postgresql+psycopg://u@h/d?sslpassword=abc&sslmode=require", {"abc"}),
        ("redis://:a@b@h:6379/0", {"a", "a@b"}),
        ("redis://h:6379/0", set()),
    ],
)
def test_the_passwords_of_a_url_are_found_as_its_libraries_read_it(url: str, passwords: set[str]) -> None:
    servers = {"database_url": "postgresql+psycopg://h/d", "broker_url": "redis://h"}
    name = "broker_url" if url.startswith("redis") else "database_url"
    assert set(Settings.model_validate(servers | {name: url}).secrets) == passwords


def test_a_level_keeps_what_is_below_it_out() -> None:
    assert "detail" in written("json", "DEBUG")
    assert "claimed" not in written("json", "WARNING")
    assert "from uvicorn" not in written("json", "ERROR")


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("at postgresql+psycopg://user:p@ss@h:5/db", "at postgresql+psycopg://user:***@h:5/db"),
        ("redis://:abc@redis:6379/0", "redis://:***@redis:6379/0"),
        ("/b/k?X-Amz-Credential=AK%2F1&x=1&X-Amz-Signature=ab", "/b/k?X-Amz-Credential=***&x=1&X-Amz-Signature=***"),
        ('{"secret_key": "a\\"d", "key": "jobs/1/x"}', '{"secret_key": "***", "key": "jobs/1/x"}'),
        ("ROBUSTREPS_S3_SECRET_KEY=abc other=1", "ROBUSTREPS_S3_SECRET_KEY=*** other=1"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("{'authorization': 'Basic abc', 'a': 1}", "{'authorization': '***', 'a': 1}"),
        ("key rr_abcdefghijkl_c2VjcmV0c2VjcmV0", "key ***"),
        ("signed with whsec_MfKQ9r8GKYqrTwjU", "signed with ***"),
        (r'{"e": "a: {\"password\": \"p q\"} b"}', r'{"e": "a: {\"password\": \"***\"} b"}'),
        (r'{"e": "Secret(password=\'x y\', host=\'h\')"}', r'{"e": "Secret(password=\'***\', host=\'h\')"}'),
        ('{"cookie": "session=abc; x=1"}', '{"cookie": "***"}'),
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_hidden(line: str, left: str) -> None:
    assert redacted(line) == left


@pytest.mark.parametrize(
    "line",
    [
        '{"method": "POST", "path": "/v1/jobs", "status": 202, "key": "jobs/job_1/items/0/1/result.png"}',
        "password authentication failed for user",
        "a token expired at 12:00; see https://example.org/a?b=c",
    ],
)
def test_what_is_no_secret_stays(line: str) -> None:
    assert redacted(line) == line


ENDLESS = ["a-", "password-", '"', "\\\"'", "secret=[ ", "password ", "://a:", "://", "&key", "?a_", "rr_",
           "rr_aaaaaa-", "whsec_", "bearer ", "password=\\",
           "".join(f'password={chr(92) * n}" ' for n in range(200, 0, -1))]  # fmt: skip


@pytest.mark.parametrize("part", ENDLESS)
def test_no_line_takes_many_times_as_long_as_a_plain_one_of_its_length(part: str) -> None:
    def took(part: str) -> float:
        line, begun = ("key @? " + part * 40_000)[:40_000], time.process_time()
        redacted(line)
        return time.process_time() - begun

    assert took(part) < 100 * min(took("key of words, ") for _ in range(5))


def test_settings_name_their_own_secrets() -> None:
    settings = Settings(broker_url="redis://:a%20b@h/0", database_url="postgresql://u:p@h/x", s3_secret_key="k")
    assert set(settings.secrets) == {"a%20b", "a b", "p", "k"}
