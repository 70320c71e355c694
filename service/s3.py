"""Objects in a bucket of S3, or of a server that speaks its protocol."""

import hashlib
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.client import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from service.headers import disposition
from service.metrics import measured
from service.objects import (
    PIECE,
    Entry,
    Link,
    ObjectNotFound,
    StorageError,
    Stored,
    file_errors,
    pieces,
    same,
    whole,
    write,
)
from service.settings import Settings

MOST_PARTS = 10_000
"""Of one upload."""
COPIED = TransferConfig(multipart_threshold=256 << 20, multipart_chunksize=256 << 20, use_threads=False)
"""A larger object is copied in parts, each of which the server copies well before an answer is given up."""
READS, PAUSE = 4, 0.5
"""So often an answer is asked for whose body breaks off; seconds in between. The client's own retries end where a body
begins."""
LET_THROUGH = (BotoCoreError, ResponseParserError, HTTPError, HTTPException, OSError)
"""What can come out of the client, beside answers that are errors: it names only some of what goes wrong in a body."""


@contextmanager
def _asked(doing: str, what: str) -> Iterator[None]:
    """S3's errors as the storage's."""
    try:
        yield
    except ClientError as e:
        if doing == "read" and e.response.get("Error", {}).get("Code") in {"NoSuchKey", "404"}:
            raise ObjectNotFound(what) from e
        raise StorageError(f"cannot {doing} {what}: {e}") from e
    except LET_THROUGH as e:
        raise StorageError(f"cannot {doing} {what}: {e}") from e


class _Signer(S3SigV4QueryAuth):
    """Signs a request in its URL, and the digest of the body too where a header names it: the server then checks it."""

    def payload(self, request: Any) -> str:
        digest: str = request.headers.get("x-amz-content-sha256") or super().payload(request)
        return digest


@measured(
    StorageError, get="read", get_range="read", put="write", _put_parts="write", download="download", stat="stat",
    copy="copy", delete="delete", check="check",
)  # fmt: skip
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
            verify=str(settings.s3_ca) if settings.s3_ca else None,
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
        with file_errors(key, "write"), _asked("write", key):
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
        return self._read(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if not length:
            return b""
        return whole(key, start, length, self._read(key, Range=f"bytes={start}-{start + length - 1}"))

    def _read(self, key: str, reads: int = READS, **span: Any) -> bytes:
        with _asked("read", key):
            body = self.client.get_object(Bucket=self.bucket, Key=key, **span)["Body"]
        try:
            with _asked("read", key):
                return body.read()
        except StorageError:
            if reads == 1:
                raise
        time.sleep(PAUSE)
        return self._read(key, reads - 1, **span)

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
        return ((entry.key, entry.size) for entry in self.dated(prefix))

    def dated(self, prefix: str) -> Iterator[Entry]:
        with _asked("list", prefix):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                for entry in page.get("Contents", []):
                    yield Entry(entry["Key"], entry["Size"], entry["LastModified"].timestamp())

    def keys(self, prefix: str) -> Iterator[str]:
        return (key for key, _ in self.entries(prefix))

    def copy(self, source: str, target: str, size: int, sha256: str) -> None:
        with _asked("read", source):
            found = self.client.get_object(Bucket=self.bucket, Key=source)
            for _ in same(iter(lambda: found["Body"].read(PIECE), b""), size, sha256):
                pass
        with _asked("write", target):
            only = {"CopySourceIfMatch": found["ETag"]}
            self.client.copy({"Bucket": self.bucket, "Key": source}, self.bucket, target, only, Config=COPIED)

    def upload_link(self, key: str, size: int, sha256: str, media_type: str, seconds: int) -> Link:
        sent = {"Content-Type": media_type, "x-amz-content-sha256": sha256}
        # Every HTTP library sends the length by itself.
        return Link(self._signed("PUT", key, seconds, sent | {"Content-Length": str(size)}), sent)

    def download_link(self, key: str, name: str, media_type: str, seconds: int) -> Link:
        shown = {"response-content-type": media_type, "response-content-disposition": disposition(media_type, name)}
        return Link(self._signed("GET", key, seconds, {}, shown), {})

    def _signed(self, method: str, key: str, seconds: int, headers: dict[str, str], query: Any = None) -> str:
        """A request by its URL. The client's own presigning cannot sign a digest."""
        with _asked("sign a link to", key):
            place = (self.settings.s3_public_endpoint or self.client.meta.endpoint_url).rstrip("/")
            request = AWSRequest(method, f"{place}/{self.bucket}/{quote(key)}", headers=headers, params=query or {})
            known = self._credentials and self._credentials.get_frozen_credentials()
            _Signer(known, "s3", self.client.meta.region_name, seconds).add_auth(request)
        return str(request.url)

    @cached_property
    def _credentials(self) -> Any:
        key, secret = self.settings.s3_access_key, self.settings.s3_secret_key
        return Credentials(key, secret.get_secret_value()) if key and secret else boto3.Session().get_credentials()

    def delete(self, key: str) -> None:
        with _asked("delete", key):
            self.client.delete_object(Bucket=self.bucket, Key=key)

    def discard_unfinished(self, prefix: str, before: float, dry_run: bool = False) -> int:
        found = 0
        with _asked("list the uploads of", prefix):
            for page in self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix):
                for upload in page.get("Uploads", []):
                    if upload["Initiated"].timestamp() < before:
                        found += 1
                        if not dry_run:
                            self._abort(upload["Key"], upload["UploadId"])
        return found

    def _abort(self, key: str, upload_id: str) -> None:
        try:
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload_id)
        except ClientError as e:
            if e.response.get("Error", {}).get("Code") != "NoSuchUpload":  # it was ended meanwhile
                raise

    def check(self) -> None:
        with _asked("reach", f"bucket {self.bucket}"):
            self.client.head_bucket(Bucket=self.bucket)


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
