"""Nobody can have the service ask an address, but a webhook's; and links to files are valid for a short time."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import ValidationError

from service.settings import Settings
from service.storage import S3Storage
from tests import compatibility
from tests.fixtures import s3_settings
from tests.servers import Bucket

ROOT = Path(__file__).parents[2]
WORDS = ("url", "uri", "href", "link", "endpoint", "host", "callback", "address")
MAY_CONNECT = {
    "service/webhooks/posting.py": "what targets.py has checked",
    "service/webhooks/targets.py": "looks names up",
    "service/webhooks/sender.py": "makes the context of TLS",
    "service/s3.py": "the bucket of the settings",
    "service/broker.py": "the broker of the settings",
    "service/server.py": "listens",
    "service/tracing.py": "the collector of the settings",
    "service/client.py": "the client", "service/remote/": "the client", "service/commands/": "the command line",
    "service/recipe_cli.py": "the command line",
    **dict.fromkeys(("workers/alone.py", "workers/announcing.py", "workers/main.py", "workers/recipes/training.py",
                     "workers/runtime.py"), "the name of its own host"),
}  # fmt: skip
"""Files that name a library which opens connections, and to where."""
CONNECT = {"socket", "ssl", "http.client", "urllib.request", "urllib3", "requests", "httpx", "httpx2", "httpcore",
           "httpcore2", "aiohttp", "ftplib", "smtplib", "boto3", "redis", "torch.hub", "huggingface_hub",
           "opentelemetry.exporter"}  # fmt: skip


def fields(schema: Any, all_of: dict[str, Any], seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """The names of all fields in a request's schema, however deep."""
    if isinstance(schema, list):
        for each in schema:
            yield from fields(each, all_of, seen)
    elif isinstance(schema, dict):
        reference = schema.get("$ref", "").rpartition("/")[2]
        if reference and reference not in seen:
            yield from fields(all_of[reference], all_of, seen | {reference})
        yield from schema.get("properties", {})
        for each in schema.values():
            yield from fields(each, all_of, seen)


def test_no_request_but_a_webhooks_takes_an_address() -> None:
    described = compatibility.present()
    found = set()
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            taken = {*fields(operation.get("requestBody", {}), described["components"]["schemas"])}
            taken |= {parameter["name"] for parameter in operation.get("parameters", [])}
            found |= {(method, path, name) for name in taken if any(word in name.lower() for word in WORDS)}
    assert found == {("post", "/v1/webhooks", "url"), ("patch", "/v1/webhooks/{webhook_id}", "url")}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_nothing_else_opens_connections() -> None:
    found = {
        str(path.relative_to(ROOT))
        for folder in ("service", "workers")
        for path in (ROOT / folder).rglob("*.py")
        if any(name == each or name.startswith(f"{each}.") for name in imported(path) for each in CONNECT)
    }
    assert {name for name in found if not name.startswith(tuple(MAY_CONNECT))} == set()


def test_weights_are_fetched_from_where_torchvision_says_alone() -> None:
    calls = [
        ast.unparse(node.args[0])
        for path in (ROOT / "workers").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and "torch.hub." in (name := ast.unparse(node.func)) and "get_dir" not in name
    ]
    assert calls == ["weights.url"]  # of an enumeration, by a name that is in it


def test_links_are_valid_for_a_quarter_of_an_hour_and_a_day_at_most(s3_bucket: Bucket) -> None:
    settings = Settings(**s3_settings(s3_bucket))
    storage = S3Storage(s3_bucket.name, settings)
    for link in (storage.download_link("a", "a", "image/png", settings.presign_seconds),
                 storage.upload_link("a", 1, "0" * 64, "image/png", settings.presign_seconds)):  # fmt: skip
        assert parse_qs(urlsplit(link.url).query)["X-Amz-Expires"] == ["900"]
    with pytest.raises(ValidationError, match="less than or equal to 86400"):
        Settings(presign_seconds=86_401)
