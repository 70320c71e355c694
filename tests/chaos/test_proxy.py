"""The proxy forwards what a client signed, and misbehaves exactly as it is told."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.chaos.proxy import SLOW, Mode, Proxy
from tests.servers import Bucket

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.e2e
BODY = bytes(range(256)) * 4096


@pytest.fixture
def proxy(s3_bucket: Bucket) -> Iterator[Proxy]:
    with Proxy(s3_bucket.endpoint.url) as proxy:
        yield proxy


@pytest.fixture
def client(s3_bucket: Bucket, proxy: Proxy) -> Iterator["S3Client"]:
    with through(proxy, s3_bucket) as client:
        yield client


@contextmanager
def through(proxy: Proxy, bucket: Bucket, secret: str | None = None) -> Iterator["S3Client"]:
    """A client that tries once and sees what the proxy does."""
    client = boto3.client(
        "s3", endpoint_url=proxy.url, region_name=bucket.endpoint.region,
        aws_access_key_id=bucket.endpoint.access_key, aws_secret_access_key=secret or bucket.endpoint.secret_key,
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )  # fmt: skip
    yield client
    client.close()


def put(client: "S3Client", bucket: Bucket, key: str = "key", body: bytes = BODY) -> None:
    client.put_object(Bucket=bucket.name, Key=key, Body=body)


def get(client: "S3Client", bucket: Bucket, key: str = "key") -> bytes:
    return client.get_object(Bucket=bucket.name, Key=key)["Body"].read()


def keys(client: "S3Client", bucket: Bucket) -> list[str]:
    return [each["Key"] for each in client.list_objects_v2(Bucket=bucket.name).get("Contents", [])]


def test_every_call_passes_a_proxy_that_behaves(client: "S3Client", s3_bucket: Bucket) -> None:
    put(client, s3_bucket, "a key/with+signs=and ü")
    assert keys(client, s3_bucket) == ["a key/with+signs=and ü"]
    assert get(client, s3_bucket, "a key/with+signs=and ü") == BODY
    assert client.head_object(Bucket=s3_bucket.name, Key="a key/with+signs=and ü")["ContentLength"] == len(BODY)
    client.delete_object(Bucket=s3_bucket.name, Key="a key/with+signs=and ü")
    assert keys(client, s3_bucket) == []


def test_a_wrong_signature_is_still_refused(proxy: Proxy, s3_bucket: Bucket) -> None:
    with through(proxy, s3_bucket, "wrong") as client, pytest.raises(ClientError) as caught:
        put(client, s3_bucket)
    assert caught.value.response["Error"]["Code"] == "SignatureDoesNotMatch"


@pytest.mark.parametrize(("mode", "status"), [(Mode.ERROR, 500), (Mode.BUSY, 503), (Mode.FULL, 507)])
def test_a_refusal_has_its_status_and_forwards_nothing(
    proxy: Proxy, client: "S3Client", s3_bucket: Bucket, mode: Mode, status: int
) -> None:
    proxy.misbehave(mode)
    with pytest.raises(ClientError) as caught:
        put(client, s3_bucket)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    proxy.behave()
    assert keys(client, s3_bucket) == []
    assert proxy.hits == {mode: 1}


@pytest.mark.parametrize("mode", [Mode.REFUSED, Mode.TORN_REQUEST])
def test_a_connection_that_is_reset_on_the_way_there_leaves_no_object(
    proxy: Proxy, client: "S3Client", s3_bucket: Bucket, mode: Mode
) -> None:
    proxy.misbehave(mode)
    with pytest.raises(BotoCoreError):
        put(client, s3_bucket)
    proxy.behave()
    assert keys(client, s3_bucket) == []


def test_a_lost_answer_leaves_the_object(proxy: Proxy, client: "S3Client", s3_bucket: Bucket) -> None:
    proxy.misbehave(Mode.LOST_ANSWER)
    with pytest.raises(BotoCoreError):
        put(client, s3_bucket)
    proxy.behave()
    assert get(client, s3_bucket) == BODY


def test_a_torn_answer_breaks_off_in_the_body(proxy: Proxy, client: "S3Client", s3_bucket: Bucket) -> None:
    put(client, s3_bucket)
    proxy.misbehave(Mode.TORN_ANSWER)
    body = client.get_object(Bucket=s3_bucket.name, Key="key")["Body"]
    with pytest.raises(BotoCoreError):
        body.read()


def test_a_full_disk_can_be_read(proxy: Proxy, client: "S3Client", s3_bucket: Bucket) -> None:
    put(client, s3_bucket)
    proxy.misbehave(Mode.FULL)
    assert get(client, s3_bucket) == BODY


@pytest.mark.parametrize("mode", [Mode.SLOW, Mode.TRICKLE])
def test_a_slow_proxy_gives_the_whole_answer_late(
    proxy: Proxy, client: "S3Client", s3_bucket: Bucket, mode: Mode
) -> None:
    put(client, s3_bucket)
    proxy.misbehave(mode)
    begun = time.monotonic()
    assert get(client, s3_bucket) == BODY
    assert time.monotonic() - begun >= SLOW


def test_misbehaviour_has_a_probability_and_an_end(proxy: Proxy) -> None:
    proxy.misbehave(Mode.ERROR, seconds=0.2, probability=0.5)
    drawn = [proxy.draw("GET") for _ in range(1000)]
    assert 400 < drawn.count(Mode.ERROR) < 600
    assert set(drawn) == {Mode.ERROR, None}
    time.sleep(0.2)
    assert proxy.draw("GET") is None
