"""One contract for every storage: local files and a real S3 server."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.settings import Settings
from service.storage import LocalStorage, ObjectNotFound, S3Storage, Storage, StorageError, artifact_key, open_storage
from tests.fixtures import s3_settings
from tests.servers import Bucket

BINARY = bytes(range(256)) * 1000


def test_what_is_put_is_got_back_with_its_size_and_digest(storage: Storage) -> None:
    stored = storage.put("jobs/a/items/0/1/result.png", BINARY, "image/png")
    assert stored == ("jobs/a/items/0/1/result.png", len(BINARY), hashlib.sha256(BINARY).hexdigest())
    assert storage.get(stored.key) == BINARY


def test_an_empty_object_is_an_object(storage: Storage) -> None:
    assert storage.put("empty", b"", "text/plain").size == 0
    assert storage.get("empty") == b""


def test_a_put_replaces(storage: Storage) -> None:
    storage.put("k", b"old", "text/plain")
    storage.put("k", b"new", "text/plain")
    assert storage.get("k") == b"new"


def test_a_missing_object_is_not_found(storage: Storage) -> None:
    with pytest.raises(ObjectNotFound):
        storage.get("jobs/none")


def test_keys_are_listed_by_prefix(storage: Storage) -> None:
    for key in ("jobs/a/1", "jobs/a/2", "jobs/ab/1", "images/x"):
        storage.put(key, b"x", "text/plain")
    assert sorted(storage.keys("jobs/a/")) == ["jobs/a/1", "jobs/a/2"]
    assert sorted(storage.keys("")) == ["images/x", "jobs/a/1", "jobs/a/2", "jobs/ab/1"]


def test_delete_removes_and_may_be_repeated(storage: Storage) -> None:
    storage.put("k", b"x", "text/plain")
    storage.delete("k")
    storage.delete("k")
    with pytest.raises(ObjectNotFound):
        storage.get("k")


def test_concurrent_puts_of_one_key_leave_one_whole_object(storage: Storage) -> None:
    bodies = [bytes([i]) * 100_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda body: storage.put("k", body, "text/plain"), bodies))
    assert storage.get("k") in bodies
    assert list(storage.keys("")) == ["k"]


def test_a_working_storage_passes_its_check(storage: Storage) -> None:
    storage.check()


def test_two_epochs_of_an_item_have_different_keys() -> None:
    assert artifact_key("job_a", 0, 1, "result.png") != artifact_key("job_a", 0, 2, "result.png")


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "a/../../b", ""])
def test_local_keys_cannot_leave_the_folder(tmp_path: Path, key: str) -> None:
    storage = LocalStorage(tmp_path / "objects")
    with pytest.raises(StorageError, match="not a key"):
        storage.put(key, b"x", "text/plain")


def test_a_local_put_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("file", b"x", "text/plain")
    with pytest.raises(StorageError, match="cannot write file/below"):
        storage.put("file/below", b"x", "text/plain")


def test_s3_with_a_wrong_secret_is_a_storage_error(s3_bucket: Bucket) -> None:
    storage = open_storage(Settings(**s3_settings(s3_bucket) | {"s3_secret_key": "wrong"}))
    with pytest.raises(StorageError, match="cannot write k"):
        storage.put("k", b"x", "text/plain")
    with pytest.raises(StorageError, match="cannot reach bucket"):
        storage.check()


def test_an_s3_bucket_that_does_not_exist_fails_its_check(s3_bucket: Bucket) -> None:
    storage = S3Storage("no-such-bucket", Settings(**s3_settings(s3_bucket)))
    with pytest.raises(StorageError):
        storage.check()
