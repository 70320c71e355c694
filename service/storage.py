"""Object storage: local files or S3. Every key's name is made here.

Keys are relative paths of plain characters. A put is atomic: a reader sees the whole object or none.
"""

import hashlib
import os
import uuid
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import boto3
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from service.settings import Settings


class Stored(NamedTuple):
    """What a put wrote."""

    key: str
    size: int
    sha256: str


class ObjectNotFound(KeyError):  # noqa: N818 - what happened, in the words of the field
    """No object has this key."""


class StorageError(RuntimeError):
    """The storage did not do what was asked; the same call may work later."""


class Storage(Protocol):
    def put(self, key: str, data: bytes, media_type: str) -> Stored:
        """Write one object, replacing what was there. Raises StorageError."""

    def get(self, key: str) -> bytes:
        """The whole object. Raises ObjectNotFound or StorageError."""

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys under a prefix, in no order. Raises StorageError."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none. Raises StorageError."""

    def check(self) -> None:
        """Whether objects can be read now. Raises StorageError."""


def image_key(image_id: str) -> str:
    return f"images/{image_id.removeprefix('sha256:')}"


def artifact_key(job_id: str, index: int, epoch: int, name: str) -> str:
    """An item's artifact. The epoch keeps a worker that lost its lease from overwriting its successor's object."""
    return f"jobs/{job_id}/items/{index}/{epoch}/{name}"


class LocalStorage:
    """Files under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)

    def _path(self, key: str) -> Path:
        path = self.folder / key
        if not key or key.startswith("/") or ".." in Path(key).parts:
            raise StorageError(f"not a key: {key!r}")
        return path

    def put(self, key: str, data: bytes, media_type: str) -> Stored:  # noqa: ARG002 - the database keeps it
        path = self._path(key)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            temporary.replace(path)
        except OSError as e:
            with suppress(OSError):
                temporary.unlink()
            raise StorageError(f"cannot write {key}: {e}") from e
        return Stored(key, len(data), hashlib.sha256(data).hexdigest())

    def get(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as e:
            raise ObjectNotFound(key) from e
        except OSError as e:
            raise StorageError(f"cannot read {key}: {e}") from e

    def keys(self, prefix: str) -> Iterator[str]:
        for path in self.folder.rglob("*"):
            key = path.relative_to(self.folder).as_posix()
            if path.is_file() and not path.name.startswith(".") and key.startswith(prefix):
                yield key

    def delete(self, key: str) -> None:
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as e:
            raise StorageError(f"cannot delete {key}: {e}") from e

    def check(self) -> None:
        if not os.access(self.folder, os.R_OK | os.W_OK):
            raise StorageError(f"{self.folder} cannot be read and written")


class S3Storage:
    """One bucket, which must exist."""

    def __init__(self, bucket: str, settings: Settings) -> None:
        self.bucket = bucket
        secret = settings.s3_secret_key
        self.client = boto3.client(
            "s3",
            endpoint_url=settings.s3_endpoint,
            aws_access_key_id=settings.s3_access_key,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            region_name=settings.s3_region,
            config=Config(
                connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 4, "mode": "standard"},
                max_pool_connections=32, s3={"addressing_style": "path"} if settings.s3_endpoint else {},
            ),
        )  # fmt: skip

    def put(self, key: str, data: bytes, media_type: str) -> Stored:
        # Content-MD5 is the one checksum that every S3 server enforces.
        md5 = b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        try:
            self.client.put_object(Bucket=self.bucket, Key=key, Body=data, ContentType=media_type, ContentMD5=md5)
        except (BotoCoreError, ClientError) as e:
            raise StorageError(f"cannot write {key}: {e}") from e
        return Stored(key, len(data), hashlib.sha256(data).hexdigest())

    def get(self, key: str) -> bytes:
        try:
            return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        except self.client.exceptions.NoSuchKey as e:
            raise ObjectNotFound(key) from e
        except (BotoCoreError, ClientError) as e:
            raise StorageError(f"cannot read {key}: {e}") from e

    def keys(self, prefix: str) -> Iterator[str]:
        try:
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                yield from (entry["Key"] for entry in page.get("Contents", []))
        except (BotoCoreError, ClientError) as e:
            raise StorageError(f"cannot list {prefix}: {e}") from e

    def delete(self, key: str) -> None:
        try:
            self.client.delete_object(Bucket=self.bucket, Key=key)
        except (BotoCoreError, ClientError) as e:
            raise StorageError(f"cannot delete {key}: {e}") from e

    def check(self) -> None:
        try:
            self.client.head_bucket(Bucket=self.bucket)
        except (BotoCoreError, ClientError) as e:
            raise StorageError(f"cannot reach bucket {self.bucket}: {e}") from e


def open_storage(settings: Settings) -> Storage:
    """The storage that `storage_url` names."""
    if settings.storage.startswith("s3://"):
        return S3Storage(settings.storage.removeprefix("s3://").strip("/"), settings)
    return LocalStorage(Path(settings.storage.removeprefix("file://")))
