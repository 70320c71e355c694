"""One contract for every storage: local files and a real S3 server."""

import hashlib
import pickle
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from service import s3
from service.objects import PIECE
from service.settings import Settings
from service.storage import (
    LocalFolder,
    LocalStorage,
    ObjectNotFound,
    S3Storage,
    Storage,
    StorageError,
    artifact_key,
    open_storage,
)
from tests.fixtures import s3_settings
from tests.servers import Bucket
from tests.service.datafiles import fill

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


def test_local_folders_go_with_the_last_file_in_them(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for key in ("jobs/a/items/0/1/x", "jobs/a/y"):
        storage.put(key, b"x", "text/plain")
    storage.delete("jobs/a/items/0/1/x")
    assert [path.name for path in (tmp_path / "jobs/a").iterdir()] == ["y"]
    storage.delete("jobs/a/y")
    assert list(tmp_path.iterdir()) == []


def test_a_local_put_is_not_lost_to_who_removes_its_folder_as_empty(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)

    def put_and_delete(n: int) -> list[bytes]:
        found = []
        for _ in range(50):
            storage.put(f"a/b/{n}", b"x", "text/plain")
            found.append(storage.get(f"a/b/{n}"))
            storage.delete(f"a/b/{n}")
        return found

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(put_and_delete, range(6))) == [[b"x"] * 50] * 6
    assert list(tmp_path.iterdir()) == []


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


def test_a_range_is_that_part_of_the_object(storage: Storage) -> None:
    storage.put("k", BINARY, "text/plain")
    assert storage.get_range("k", 1000, 77) == BINARY[1000:1077]
    assert storage.get_range("k", len(BINARY) - 1, 1) == BINARY[-1:]
    assert storage.get_range("k", 5, 0) == b""


@pytest.mark.parametrize("start", [len(BINARY) - 9, len(BINARY) + 9])
def test_a_range_beyond_the_end_is_an_error(storage: Storage, start: int) -> None:
    storage.put("k", BINARY, "text/plain")
    with pytest.raises(StorageError, match="cannot read k"):
        storage.get_range("k", start, 10)


def test_entries_and_stat_tell_sizes(storage: Storage) -> None:
    sizes = {"a/1": 0, "a/2": 5, "a/b/3": 70_000, "ab": 1}
    for key, size in sizes.items():
        storage.put(key, bytes(size), "text/plain")
    assert dict(storage.entries("")) == sizes
    assert dict(storage.entries("a/")) == {k: n for k, n in sizes.items() if k.startswith("a/")}
    assert dict(storage.entries("a/b")) == {"a/b/3": 70_000}
    assert dict(storage.entries("none/such")) == {}
    assert storage.stat("a/b/3") == 70_000


def test_large_files_go_up_in_parts_and_come_down_in_pieces(storage: Storage, tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(2 * PIECE + 12_345)
    (tmp_path / "up").write_bytes(data)
    stored = ("big/file", len(data), hashlib.sha256(data).hexdigest())
    assert storage.put_file("big/file", tmp_path / "up", "application/octet-stream") == stored
    assert [len(piece) for piece in storage.stream("big/file")] == [PIECE, PIECE, 12_345]
    assert storage.download("big/file", tmp_path / "down") == stored
    assert (tmp_path / "down").read_bytes() == data


def test_small_and_empty_files_go_up_too(storage: Storage, tmp_path: Path) -> None:
    for data in (b"", BINARY):
        (tmp_path / "up").write_bytes(data)
        assert storage.put_file("k", tmp_path / "up", "text/plain") == storage.put("same", data, "")._replace(key="k")
        assert storage.get("k") == data


def test_a_file_that_is_not_there_cannot_go_up(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write k"):
        storage.put_file("k", tmp_path / "none", "text/plain")
    assert list(storage.keys("")) == []


def test_nothing_is_found_under_a_missing_key(storage: Storage, tmp_path: Path) -> None:
    asks: list[Callable[[], object]] = [
        lambda: storage.get_range("a/none", 0, 1),
        lambda: storage.stat("a/none"),
        lambda: list(storage.stream("a/none")),
        lambda: storage.download("a/none", tmp_path / "down"),
    ]
    for ask in asks:
        with pytest.raises(ObjectNotFound):
            ask()
    assert not [path for path in tmp_path.iterdir() if "down" in path.name]


def test_a_pickled_storage_is_the_same_storage(storage: Storage) -> None:
    storage.put("k", BINARY, "text/plain")
    again = pickle.loads(pickle.dumps(storage))
    assert again.get("k") == BINARY
    assert again.url == storage.url


def test_an_upload_that_breaks_off_leaves_nothing_on_s3(s3_bucket: Bucket) -> None:
    storage = S3Storage(s3_bucket.name, Settings(**s3_settings(s3_bucket)))

    def breaks_off() -> Iterator[bytes]:
        yield bytes(5 << 20)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        storage._put_parts("k", breaks_off(), "text/plain")
    assert list(storage.keys("")) == []
    assert not storage.client.list_multipart_uploads(Bucket=s3_bucket.name).get("Uploads")


def test_a_folder_that_is_only_read_stays_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        LocalFolder(tmp_path / "none").check()
    assert not (tmp_path / "none").exists()
    fill(tmp_path, ["a/b.png", "a/.hidden", "c.png"])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    folder = LocalFolder(tmp_path)
    folder.check()
    assert sorted(folder.entries("")) == [("a/b.png", 1), ("c.png", 1)]
    assert (folder.get("a/b.png"), folder.get_range("c.png", 0, 1), folder.stat("c.png")) == (b"x", b"x", 1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert not hasattr(folder, "put")


def test_a_folder_is_no_object(tmp_path: Path) -> None:
    fill(tmp_path, ["a/b.png"])
    for ask in (LocalFolder(tmp_path).get, LocalFolder(tmp_path).stat):
        with pytest.raises(ObjectNotFound):
            ask("a")


def test_links_are_followed_only_inside_the_folder(tmp_path: Path) -> None:
    fill(tmp_path, ["in/real/b.png", "out/secret.png"])
    folder = LocalFolder(tmp_path / "in")
    (tmp_path / "in/file.png").symlink_to("real/b.png")
    (tmp_path / "in/linked").symlink_to(tmp_path / "in/real")
    assert sorted(folder.keys("")) == ["file.png", "linked/b.png", "real/b.png"]
    assert folder.get("linked/b.png") == b"x"
    (tmp_path / "in/away").symlink_to(tmp_path / "out")
    for ask in (lambda: folder.get("away/secret.png"), lambda: list(folder.keys("")), lambda: folder.stat("away")):
        with pytest.raises(StorageError, match="leaves the folder"):
            ask()


def test_links_in_a_circle_are_an_error_and_no_endless_listing(tmp_path: Path) -> None:
    fill(tmp_path, ["x/1", "y/2"])
    (tmp_path / "x/to").symlink_to(tmp_path / "y")
    (tmp_path / "y/fro").symlink_to(tmp_path / "x")
    with pytest.raises(StorageError, match="a folder that it lies in"):
        list(LocalFolder(tmp_path).keys(""))


@pytest.mark.parametrize("prefix", ["../", "a/../../", "/etc/"])
def test_no_listing_begins_outside_the_folder(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(StorageError, match="not a key"):
        list(LocalFolder(tmp_path).keys(prefix))


def test_a_listing_tells_when_objects_were_stored(storage: Storage) -> None:
    stored = storage.put("a/k", b"x", "text/plain")
    [entry] = storage.dated("a/")
    assert entry[:2] == ("a/k", 1)
    later = storage.put("b/k", b"x", "text/plain") and next(storage.dated("b/"))
    assert stored.key == entry.key
    assert 0 <= later.modified - entry.modified < 60


ANSWER = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nConnection: close\r\n'
WHOLE = ANSWER + b"Content-Length: 5\r\n\r\n12345"
BROKEN = {
    "short": ANSWER + b"Content-Length: 9\r\n\r\n12345",
    "no chunk": ANSWER + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
    "bad chunk": ANSWER + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n12345",
}
RESET = struct.pack("ii", 1, 0)


@contextmanager
def answering(answers: Sequence[bytes]) -> Iterator[tuple[S3Storage, list[bytes]]]:
    """A server that gives these answers in turn, whatever it is asked, and breaks off each; and what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def serve() -> None:
            for answer in answers:
                connection, _ = server.accept()
                with connection:
                    asked.append(connection.recv(65536))
                    connection.sendall(answer)
                    if b"Content-Length: 9" in answer:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        yield S3Storage("bucket", Settings(s3_endpoint=endpoint, s3_access_key="a", s3_secret_key="s")), asked
        thread.join(60)
        assert not thread.is_alive(), f"asked {len(asked)} times, not {len(answers)}"


@pytest.mark.parametrize("how", BROKEN)
def test_a_body_that_breaks_off_is_read_again_and_in_the_end_an_error(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PAUSE", 0.01)
    with answering([BROKEN[how]] * (s3.READS - 1) + [WHOLE]) as (storage, _):
        assert storage.get("k") == b"12345"
    with answering([BROKEN[how], WHOLE]) as (storage, asked):
        assert storage.get_range("k", 3, 5) == b"12345"
        assert all(b"bytes=3-7" in request for request in asked)
    with answering([BROKEN[how]] * s3.READS) as (storage, _), pytest.raises(StorageError, match="cannot read k"):
        storage.get("k")


@pytest.mark.parametrize("how", BROKEN)
def test_a_stream_that_breaks_off_is_an_error_and_leaves_no_file(how: str, tmp_path: Path) -> None:
    with answering([BROKEN[how]]) as (storage, _), pytest.raises(StorageError, match="cannot read k"):
        storage.download("k", tmp_path / "down")
    assert list(tmp_path.iterdir()) == []


def test_a_listing_that_is_no_xml_is_an_error() -> None:  # after the client has asked as often as it does
    with answering([WHOLE] * 4) as (storage, _), pytest.raises(StorageError, match="cannot list"):
        list(storage.keys(""))
