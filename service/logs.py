"""Structured logs: every line carries what is bound to its thread (job, shard, request), and no line a secret."""

import json
import logging
import re
import sys
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor

from service import metrics, tracing
from service.settings import Settings

LOUD = {"warning": "warning", "error": "error", "exception": "error", "critical": "critical"}
HIDDEN = "***"
LEAST_SECRET = 6
"""Characters of a setting that is hidden wherever it stands: a shorter one would be found in words."""
USERINFO = re.compile(r"(://[^\s/@:\"']*:)[^\s/\"']+@")
"""The password of a URL; it may itself hold an @."""
PARAMETER = re.compile(
    r"([?&](?:X-Amz-(?:Signature|Credential|Security-Token)|Signature|AWSAccessKeyId|sig|[a-z_]*token|[a-z_]*key|secret"
    r"|password)=)[^&\s\"'<>]+",
    re.IGNORECASE,
)
"""What of a query opens a door: above all, that of a presigned link."""
NAMED = re.compile(
    r"((?<![a-z0-9])(?:password|passwd|secret|secret[_-]?key|api[_-]?key|access[_-]?key|authorization"
    r"|cookie|credentials?|(?:access|refresh|session)[_-]token)\b[\\\"']*\s*[:=]\s*)"
    r"(\"(?:[^\"\\]|\\.)*\"|'[^']*'|\[[^\]]{0,2000}\]|(\\{1,15}[\"']).*?\3|(?:bearer|basic)\s+[^\s\"',\\]+|[^\s\"',&}\]\\]+)",
    re.IGNORECASE,
)
"""A value after such a name, in JSON, Python or plain words."""
TOKENS = re.compile(r"\b(?:whsec_[A-Za-z0-9+/=_-]{8,}|rr_[A-Za-z0-9]{6,}_[A-Za-z0-9_-]{8,})|(?<=[Bb]earer )[^\s\"',]+")
"""What is a secret by its form: of webhooks, API keys, tokens of a header."""

HINTS = ("passw", "secret", "key", "authoriz", "cookie", "credential", "token", "bearer", "whsec_", "rr_")
"""Without one of these in it, which most lines are, a line is looked at no further: that takes 30 times as long."""


def redacted(line: str, secrets: tuple[str, ...] = ()) -> str:
    """The line without passwords, keys and signatures; `secrets` are left out wherever they stand."""
    for secret in secrets:
        line = line.replace(secret, HIDDEN)
    if "@" in line:
        line = USERINFO.sub(rf"\1{HIDDEN}@", line)
    if "?" in line:
        line = PARAMETER.sub(rf"\1{HIDDEN}", line)
    lower = line.lower()
    return TOKENS.sub(HIDDEN, NAMED.sub(_hidden, line)) if any(hint in lower for hint in HINTS) else line


def _hidden(found: re.Match[str]) -> str:
    quote = found[3] or (found[2][0] if found[2][0] in "\"'" else "")
    return f"{found[1]}{quote}{HIDDEN}{quote}"


def start(settings: Settings, **always: Any) -> None:
    """As a process of the service logs."""
    configure(settings.log_format, settings.log_level, settings.secrets, **always)


def configure(
    log_format: Literal["console", "json"], level: str = "INFO", secrets: tuple[str, ...] = (), **always: Any
) -> None:
    """One line an event on standard error, for people or as JSON; other libraries' logs join from WARNING up.

    Those pass logging's records; the service's own do not, at a third of the price. Every line has `always`, such as
    the worker that wrote it. `secrets` are in none of them, nor is anything that looks like one.
    """
    before, after = _bound(always), _written(log_format, secrets)
    structlog.configure(
        processors=[*before, *after],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    plain = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=before, processors=[plain, *after]))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    quiet = max(logging.WARNING, root.level)
    for noisy in ("celery", "kombu", "alembic", "botocore", "uvicorn.error", "PIL", "torch", "opentelemetry", "httpx2"):
        logging.getLogger(noisy).setLevel(quiet)


def _bound(always: dict[str, Any]) -> list[Processor]:
    """What an event gets before it is written."""

    def stamped(_: Any, name: str, event: EventDict) -> EventDict:
        if level := LOUD.get(name):
            metrics.LOGGED.labels(level).inc()
        return {**always, **tracing.ids(), **event}

    return [
        structlog.contextvars.merge_contextvars,
        stamped,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _forms(secret: str) -> set[str]:
    """As it may stand in a line: quoted by Python, as in an exception, by JSON, and by one within the other."""
    forms = {secret}
    for _ in range(2):
        quoted = [(repr(f)[1:-1], repr(f + '"')[1:-2], json.dumps(f)[1:-1]) for f in forms]
        forms.update(*quoted)
    return forms


def _written(log_format: Literal["console", "json"], secrets: tuple[str, ...]) -> list[Any]:
    """How an event becomes a line without secrets; the longest go first, for one may be part of another."""
    forms = {form for secret in secrets if len(secret) >= LEAST_SECRET for form in _forms(secret)}
    hidden = tuple(sorted(forms, key=len, reverse=True))

    def without_secrets(_: Any, __: str, line: Any) -> str:
        return redacted(str(line), hidden)

    if log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(), without_secrets]
    traceback = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=traceback), without_secrets]
