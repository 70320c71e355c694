"""A full disk is an error that tells so, loses nothing, and passes."""

import errno
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import pytest

from service.settings import Settings
from service.storage import LocalStorage, StorageError
from tests.fixtures import LiveService, inversion

MANY = {"source": "dataset", "dataset": "cifar10-sample", "indices": list(range(400))}


@contextmanager
def small_disk(folder: Path, size: str = "1m") -> Iterator[Path]:
    """A file system in memory of this size, as a folder."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_an_error_that_leaves_no_half_file_and_passes(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        storage, ballast = LocalStorage(disk), disk / "ballast"
        storage.put("kept", b"old", "text/plain")
        (tmp_path / "big").write_bytes(bytes(2 << 20))
        puts: list[Callable[[], object]] = [
            lambda: storage.put("kept", bytes(2 << 20), "text/plain"),
            lambda: storage.put_file("a/b", tmp_path / "big", "text/plain"),
        ]
        for put in puts:
            with pytest.raises(StorageError, match="cannot write") as raised:
                put()
            assert isinstance(raised.value.__cause__, OSError)
            assert raised.value.__cause__.errno == errno.ENOSPC
        assert [path.name for path in disk.rglob("*") if path.is_file()] == ["kept"]
        storage.check()
        fill_up(ballast)
        with pytest.raises(StorageError, match="cannot write a probe"):
            storage.check()
        ballast.unlink()
        storage.check()
        assert storage.get("kept") == b"old"
        assert storage.put("a/b", b"new", "text/plain").size == 3
        assert [path.name for path in disk.rglob(".*")] == []


def fill_up(ballast: Path) -> None:
    """Take all the room that is left."""
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_a_disk_that_can_only_be_read_fails_its_check(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        storage = LocalStorage(disk)
        storage.put("k", b"x", "text/plain")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(StorageError, match="Read-only"):
            storage.check()
        assert storage.get("k") == b"x"


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """The embedded mode on a small disk, in a hurry."""
    with small_disk(tmp_path / "data", "24m") as folder:
        yield Settings(
            data_dir=folder, port=0, heartbeat_seconds=0.2, lease_seconds=5, reconcile_seconds=0.5, retry_seconds=0.5
        )


@pytest.mark.slow
def test_a_service_on_a_full_disk_says_so_and_goes_on_once_there_is_room(
    live_service: LiveService, settings: Settings
) -> None:
    running = live_service.submit(inversion(steps=300))
    while not live_service.client.job(running["id"])["progress"]["fraction"]:
        time.sleep(0.05)
    ballast = settings.data_dir / "ballast"
    fill_up(ballast)
    with httpx2.Client(base_url=live_service.url, timeout=60) as http:
        refused = http.post("/v1/jobs", json=inversion(targets=MANY))
        assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
        assert int(refused.headers["retry-after"]) > 0
        assert http.get("/readyz").json()["storage"] == "unreachable"
        time.sleep(2 * settings.lease_seconds)  # meanwhile the running job cannot store, save or renew its lease
        assert http.get(f"/v1/jobs/{running['id']}").json()["state"] == "running"
        ballast.unlink()
        assert http.get("/readyz").json()["storage"] == "ok"
    later = live_service.submit(inversion())
    for job in (running, later):
        ended = live_service.wait(job["id"])
        assert (ended["state"], ended["items"]["succeeded"]) == ("succeeded", 3)


def may_mount() -> bool:
    with TemporaryDirectory() as folder, suppress(subprocess.CalledProcessError), small_disk(Path(folder) / "disk"):
        return True
    return False


if not may_mount():  # then all of this runs where anybody may
    for name in [name for name in globals() if name.startswith("test_")]:
        del globals()[name]

    def test_a_full_disk_in_a_namespace_of_its_own() -> None:
        command = ["unshare", "--map-root-user", "--mount", sys.executable, "-m", "pytest", "-q", __file__]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
