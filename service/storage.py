"""Object storage: local files or S3. Every key's name is made here.

Keys are relative paths of plain characters. A put is atomic: a reader sees the whole object or none.
"""

import hashlib
import os
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from service.objects import PIECE, ObjectNotFound, Source, Storage, StorageError, Stored, pieces, write
from service.settings import Settings

__all__ = [
    "LocalFolder", "LocalStorage", "ObjectNotFound", "S3Storage", "Source", "Storage", "StorageError", "Stored",
    "artifact_key", "image_key", "open_storage",
]  # fmt: skip

MOST_PARTS = 10_000
"""Of one upload to S3."""


def image_key(image_id: str) -> str:
    return f"images/{image_id.removeprefix('sha256:')}"


def artifact_key(job_id: str, index: int, epoch: int, name: str) -> str:
    """An item's artifact. The epoch keeps a worker that lost its lease from overwriting its successor's object."""
    return f"jobs/{job_id}/items/{index}/{epoch}/{name}"


@contextmanager
def _file(key: str, doing: str = "read") -> Iterator[None]:
    """A file's errors as the storage's."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as e:
        if doing == "read":
            raise ObjectNotFound(key) from e
        raise StorageError(f"cannot {doing} {key}: {e}") from e
    except OSError as e:
        raise StorageError(f"cannot {doing} {key}: {e}") from e


class LocalFolder:
    """Files under one folder, to be read. Links that stay inside are followed; hidden files are not listed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.url = self.folder.as_uri()

    def _path(self, key: str) -> Path:
        path = self.folder / key
        if not key or key.startswith("/") or ".." in Path(key).parts or "\0" in key:
            raise StorageError(f"not a key: {key!r}")
        self._inside(path, key)
        return path

    def _inside(self, path: Path, key: str) -> str:
        real = os.path.realpath(path)
        if not Path(real).is_relative_to(self.folder):
            raise StorageError(f"{key} is a link that leaves the folder")
        return real

    def get(self, key: str) -> bytes:
        with _file(key):
            return self._path(key).read_bytes()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with _file(key), self._path(key).open("rb") as f:
            f.seek(start)
            return _whole(key, start, length, f.read(length))

    def stream(self, key: str) -> Iterator[bytes]:
        with _file(key):
            yield from pieces(self._path(key))

    def download(self, key: str, path: Path) -> Stored:
        return Stored(key, *write(path, self.stream(key)))

    def stat(self, key: str) -> int:
        path = self._path(key)
        with _file(key):
            size = path.stat().st_size
        if not path.is_file():
            raise ObjectNotFound(key)
        return size

    def entries(self, prefix: str) -> Iterator[tuple[str, int]]:
        folder = prefix.rpartition("/")[0]
        path = self._path(folder) if folder else self.folder
        with suppress(ObjectNotFound), _file(prefix):
            yield from self._walk(path, f"{folder}/" if folder else "", prefix, frozenset())

    def _walk(self, folder: Path, name: str, prefix: str, above: frozenset[str]) -> Iterator[tuple[str, int]]:
        """One folder at a time is open on the way down, so memory does not grow with the number of files."""
        real = self._inside(folder, name)
        if real in above:
            raise StorageError(f"{name} is a link to a folder that it lies in")
        with os.scandir(folder) as found:
            for entry in found:
                key = name + entry.name
                if not key.startswith(prefix):
                    continue
                if entry.is_symlink():
                    self._inside(Path(entry.path), key)
                with suppress(FileNotFoundError):  # it was deleted meanwhile
                    if entry.is_dir():
                        yield from self._walk(Path(entry.path), f"{key}/", prefix, above | {real})
                    elif entry.is_file() and not entry.name.startswith("."):
                        yield key, entry.stat().st_size

    def keys(self, prefix: str) -> Iterator[str]:
        return (key for key, _ in self.entries(prefix))

    def check(self) -> None:
        if not os.access(self.folder, os.R_OK | os.X_OK):
            raise StorageError(f"{self.folder} cannot be read")


class LocalStorage(LocalFolder):
    """Files under one folder, which is made."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)

    def put(self, key: str, data: bytes, media_type: str) -> Stored:
        return self._put(key, [data], media_type)

    def put_file(self, key: str, path: Path, media_type: str) -> Stored:
        return self._put(key, pieces(path), media_type)

    def _put(self, key: str, data: Iterable[bytes], media_type: str) -> Stored:  # noqa: ARG002 - the database keeps it
        path = self._path(key)
        with _file(key, "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            return Stored(key, *write(path, data))

    def delete(self, key: str) -> None:
        with _file(key, "delete"):
            self._path(key).unlink(missing_ok=True)

    def check(self) -> None:
        if not os.access(self.folder, os.R_OK | os.W_OK):
            raise StorageError(f"{self.folder} cannot be read and written")


@contextmanager
def _asked(doing: str, what: str) -> Iterator[None]:
    """S3's errors as the storage's."""
    try:
        yield
    except ClientError as e:
        if doing == "read" and e.response.get("Error", {}).get("Code") in {"NoSuchKey", "404"}:
            raise ObjectNotFound(what) from e
        raise StorageError(f"cannot {doing} {what}: {e}") from e
    except BotoCoreError as e:
        raise StorageError(f"cannot {doing} {what}: {e}") from e


class S3Storage:
    """One bucket, which must exist. A pickled one connects anew; do not carry one over a fork."""

    def __init__(self, bucket: str, settings: Settings) -> None:
        self.bucket, self.settings = bucket, settings
        self.url = f"{(settings.s3_endpoint or 's3:/').rstrip('/')}/{bucket}"
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
                request_checksum_calculation="when_required",
            ),
        )  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Storage, (self.bucket, self.settings)

    def put(self, key: str, data: bytes, media_type: str) -> Stored:
        # Content-MD5 is the one checksum that every S3 server enforces.
        with _asked("write", key):
            self.client.put_object(
                Bucket=self.bucket, Key=key, Body=data, ContentType=media_type, ContentMD5=_base64(_md5(data))
            )
        return Stored(key, len(data), hashlib.sha256(data).hexdigest())

    def put_file(self, key: str, path: Path, media_type: str) -> Stored:
        with _file(key, "write"), _asked("write", key):
            size = path.stat().st_size
            part = max(2 * PIECE, -(-size // MOST_PARTS))
            if size <= part:
                return self.put(key, path.read_bytes(), media_type)
            return self._put_parts(key, pieces(path, part), media_type)

    def _put_parts(self, key: str, data: Iterator[bytes], media_type: str) -> Stored:
        """Upload in parts, each checked by the server on arrival, and look at what it made of them."""
        upload: Any = {"Bucket": self.bucket, "Key": key}
        upload["UploadId"] = self.client.create_multipart_upload(**upload, ContentType=media_type)["UploadId"]
        digest, size, md5s = hashlib.sha256(), 0, b""
        tags: list[Any] = []
        try:
            for number, piece in enumerate(data, 1):
                md5 = _md5(piece)
                part = self.client.upload_part(**upload, PartNumber=number, Body=piece, ContentMD5=_base64(md5))
                tags.append({"PartNumber": number, "ETag": part["ETag"]})
                md5s, size = md5s + md5, size + len(piece)
                digest.update(piece)
            self.client.complete_multipart_upload(**upload, MultipartUpload={"Parts": tags})
        except BaseException:
            with suppress(BotoCoreError, ClientError):
                self.client.abort_multipart_upload(**upload)
            raise
        found = self.client.head_object(Bucket=self.bucket, Key=key)
        # Where a key service encrypts, the tag is no digest of the content.
        tag_is_digest = found.get("ServerSideEncryption", "AES256") == "AES256"
        if found["ContentLength"] != size or (tag_is_digest and found["ETag"] != f'"{_md5(md5s).hex()}-{len(tags)}"'):
            raise StorageError(f"cannot write {key}: the server holds something else than was sent")
        return Stored(key, size, digest.hexdigest())

    def get(self, key: str) -> bytes:
        with _asked("read", key):
            return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if not length:
            return b""
        with _asked("read", key):
            span = f"bytes={start}-{start + length - 1}"
            data = self.client.get_object(Bucket=self.bucket, Key=key, Range=span)["Body"].read()
        return _whole(key, start, length, data)

    def stream(self, key: str) -> Iterator[bytes]:
        with _asked("read", key):
            body = self.client.get_object(Bucket=self.bucket, Key=key)["Body"]
            while piece := body.read(PIECE):
                yield piece

    def download(self, key: str, path: Path) -> Stored:
        return Stored(key, *write(path, self.stream(key)))

    def stat(self, key: str) -> int:
        with _asked("read", key):
            return self.client.head_object(Bucket=self.bucket, Key=key)["ContentLength"]

    def entries(self, prefix: str) -> Iterator[tuple[str, int]]:
        with _asked("list", prefix):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                yield from ((entry["Key"], entry["Size"]) for entry in page.get("Contents", []))

    def keys(self, prefix: str) -> Iterator[str]:
        return (key for key, _ in self.entries(prefix))

    def delete(self, key: str) -> None:
        with _asked("delete", key):
            self.client.delete_object(Bucket=self.bucket, Key=key)

    def check(self) -> None:
        with _asked("reach", f"bucket {self.bucket}"):
            self.client.head_bucket(Bucket=self.bucket)


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _whole(key: str, start: int, length: int, data: bytes) -> bytes:
    if len(data) != length:
        raise StorageError(f"cannot read {key}: it has {len(data)} of the {length} bytes from {start} on")
    return data


def open_storage(settings: Settings) -> Storage:
    """The storage that `storage_url` names."""
    if settings.storage.startswith("s3://"):
        return S3Storage(settings.storage.removeprefix("s3://").strip("/"), settings)
    return LocalStorage(Path(settings.storage.removeprefix("file://")))
