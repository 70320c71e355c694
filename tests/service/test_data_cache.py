"""The cache on disk: its bound, its order, its checksums, and what other threads, processes and kills do to it."""

import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from service.data.cache import BLOCK, SLACK, Cache, ChangedError
from service.objects import StorageError
from service.storage import LocalFolder
from tests.service.datafiles import fill

SIZE = 10_000
ENTRY = SIZE + 4


class Watched(LocalFolder):
    """A folder that notes which objects are fetched whole, and calls `meanwhile` on the way."""

    def __init__(self, folder: Path, meanwhile: Callable[[], object] = lambda: None) -> None:
        super().__init__(folder)
        self.fetched: list[str] = []
        self.meanwhile = meanwhile

    def stream(self, key: str) -> Iterator[bytes]:
        self.fetched.append(key)
        for piece in super().stream(key):
            self.meanwhile()
            yield piece


def content(key: str, size: int = SIZE) -> bytes:
    return np.random.default_rng(list(key.encode())).bytes(size)


@pytest.fixture
def source(tmp_path: Path) -> Watched:
    for i in range(60):
        fill(tmp_path / "far", [f"{i:02}"], content(f"{i:02}"))
    return Watched(tmp_path / "far")


def read(cache: Cache, source: Watched, key: str) -> None:
    assert cache.read(source, key, SIZE, 0, SIZE) == content(key)


def used(cache: Cache) -> int:
    """Bytes of all files, while none gets its size or its name."""
    total = 0
    with cache._ledger():
        for path in cache.folder.rglob("entries/*/*"):
            with suppress(FileNotFoundError):  # a request that waited for another one's fetch
                total += path.stat().st_size
    return total


def counted(cache: Cache) -> int:
    return int((cache.folder / "total").read_bytes())


def entry(cache: Cache) -> Path:
    (path,) = cache.folder.rglob("entries/*/*")
    return path


def test_an_object_is_fetched_once_and_read_in_parts(source: Watched, tmp_path: Path) -> None:
    cache, data = Cache(tmp_path / "c", 10**7), content("big", 5 * BLOCK + 77)
    fill(tmp_path / "far", ["big"], data)
    for start, length in ((0, 9), (BLOCK - 1, 2), (len(data) - 3, 3), (5, 4 * BLOCK), (0, len(data)), (9, 0)):
        assert cache.read(source, "big", len(data), start, length) == data[start : start + length]
    assert source.fetched == ["big"]
    assert used(cache) == len(data) + 4 * 6
    with pytest.raises(ValueError, match="bytes 0 to"):
        cache.read(source, "big", len(data), 0, len(data) + 1)


def test_the_least_recently_used_go_first(source: Watched, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 40 * ENTRY)
    for i in range(40):
        read(cache, source, f"{i:02}")
    for key in ("00", "03"):
        read(cache, source, key)
    assert source.fetched == [f"{i:02}" for i in range(40)]
    source.fetched.clear()
    read(cache, source, "50")
    gone = ["01", "02", "04"]  # one to make room, and 40 / SLACK more
    assert len(gone) == 1 + 40 // SLACK
    for i in sorted(set(range(40)) - set(map(int, gone))):
        read(cache, source, f"{i:02}")
    assert source.fetched == ["50"]
    read(cache, source, "01")
    assert source.fetched == ["50", "01"]


def test_the_bound_is_never_exceeded_whatever_threads_do(source: Watched, tmp_path: Path) -> None:
    cache, most = Cache(tmp_path / "c", 7 * ENTRY + 5), list[int]()
    source.meanwhile = lambda: most.append(used(cache))
    keys = [f"{i:02}" for i in np.random.default_rng(0).integers(0, 30, 300)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda key: read(cache, source, key), keys))
    assert 5 * ENTRY <= max(most) <= cache.max_bytes
    assert len(most) < 300
    assert counted(cache) == used(cache)


def test_an_object_beyond_the_limit_is_read_in_place(source: Watched, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", ENTRY - 1)
    assert cache.read(source, "00", SIZE, 100, 50) == content("00")[100:150]
    assert (source.fetched, used(cache)) == ([], 0)


def test_what_finds_no_room_beside_running_fetches_is_read_in_place(source: Watched, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", ENTRY)
    source.meanwhile = lambda: read(cache, Watched(tmp_path / "far"), "01")
    read(cache, source, "00")
    assert used(cache) == ENTRY
    source.meanwhile = lambda: None
    read(cache, source, "00")
    assert source.fetched == ["00"]


@pytest.mark.parametrize("at", [3, SIZE - 1, SIZE + 1], ids=["first byte", "last byte", "checksum"])
def test_a_corrupted_entry_is_fetched_again(source: Watched, tmp_path: Path, at: int) -> None:
    cache = Cache(tmp_path / "c", 10**6)
    read(cache, source, "00")
    with entry(cache).open("r+b") as f:
        f.seek(at)
        byte = f.read(1)
        f.seek(at)
        f.write(bytes([byte[0] ^ 1]))
    for _ in range(2):
        read(cache, source, "00")
    assert source.fetched == ["00", "00"]
    assert counted(cache) == used(cache) == ENTRY


def test_a_shortened_entry_is_fetched_again(source: Watched, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 10**6)
    read(cache, source, "00")
    entry(cache).write_bytes(content("00")[:-1])
    read(cache, source, "00")
    assert source.fetched == ["00", "00"]


def test_another_place_or_size_is_another_entry(source: Watched, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 10**6)
    read(cache, source, "00")
    fill(tmp_path / "other", ["00"], b"x" * SIZE)
    assert cache.read(Watched(tmp_path / "other"), "00", SIZE, 0, 5) == b"xxxxx"
    for size in (SIZE - 1, SIZE + 1):
        with pytest.raises(ChangedError, match="00"):
            cache.read(source, "00", size, 0, 5)
    assert used(cache) == 2 * ENTRY


def test_a_fetch_that_fails_leaves_nothing_and_may_be_repeated(source: Watched, tmp_path: Path) -> None:
    def fail() -> None:
        raise StorageError("the line is down")

    cache, source.meanwhile = Cache(tmp_path / "c", 10**6), fail
    with pytest.raises(StorageError, match="the line is down"):
        read(cache, source, "00")
    assert used(cache) == counted(cache) == 0
    source.meanwhile = lambda: None
    read(cache, source, "00")


def test_a_smaller_limit_holds_from_the_start(source: Watched, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 60 * ENTRY)
    for i in range(20):
        read(cache, source, f"{i:02}")
    smaller = Cache(tmp_path / "c", 10 * ENTRY)
    assert used(smaller) <= 10 * ENTRY
    source.fetched.clear()
    read(smaller, source, "19")
    assert source.fetched == []


def test_threads_that_want_one_object_fetch_it_once(source: Watched, tmp_path: Path) -> None:
    cache, source.meanwhile = Cache(tmp_path / "c", 10**6), lambda: time.sleep(0.2)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: read(cache, source, key), ["00"] * 16))
    assert source.fetched == ["00"]
    assert used(cache) == ENTRY


def test_a_pickled_cache_is_the_same_cache(source: Watched, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 10**6)
    read(cache, source, "00")
    read(pickle.loads(pickle.dumps(cache)), source, "00")
    assert source.fetched == ["00"]


SCRIPT = """
import sys, time
from pathlib import Path
from service.data.cache import Cache
from service.storage import LocalFolder

class Slow(LocalFolder):
    def stream(self, key):
        print("fetching", flush=True)
        for piece in super().stream(key):
            time.sleep(float(sys.argv[3]))
            yield piece

cache, source = Cache(Path(sys.argv[2]), int(sys.argv[4])), Slow(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.readline()
for key in sys.argv[5:]:
    assert len(cache.read(source, key, 10000, 0, 10000)) == 10000
"""


def reader(tmp_path: Path, wait: float, limit: int, *keys: str) -> subprocess.Popen[str]:
    """Another process, which has opened the cache and waits for a line."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "far"), str(tmp_path / "c"), str(wait), str(limit), *keys]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "open\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.slow
@pytest.mark.usefixtures("source")
def test_processes_that_want_one_object_fetch_it_once(tmp_path: Path) -> None:
    processes = [reader(tmp_path, 0.5, 10**6, "00") for _ in range(2)]
    for process in processes:
        go(process)
    outs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(outs) == ["", "fetching\n"]


@pytest.mark.slow
def test_processes_keep_one_bound_together(source: Watched, tmp_path: Path) -> None:
    limit = 6 * ENTRY
    processes = [reader(tmp_path, 0.001, limit, *(f"{i:02}" for i in range(n, 60, 2))) for n in range(2)]
    cache, most, stop = Cache(tmp_path / "c", limit), list[int](), threading.Event()
    for process in processes:
        go(process)

    def watch() -> None:
        while not stop.is_set():
            most.append(used(cache))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for key in ("07", "08", "09") * 10:
        read(cache, source, key)
    for process in processes:
        process.communicate(timeout=240)
    stop.set()
    watcher.join()
    assert [process.returncode for process in processes] == [0, 0]
    assert 4 * ENTRY <= max(most) <= limit
    assert counted(cache) == used(cache) <= limit


@pytest.mark.slow
@pytest.mark.parametrize("reopened", [True, False])
def test_a_killed_fetch_leaves_nothing_in_the_way(source: Watched, tmp_path: Path, reopened: bool) -> None:
    cache = Cache(tmp_path / "c", 10**6)
    process = reader(tmp_path, 600, 10**6, "00")
    go(process)
    assert process.stdout
    assert process.stdout.readline() == "fetching\n"
    Cache(tmp_path / "c", 10**6)  # opening it does not disturb a fetch that is going on
    assert [path.suffix for path in cache.folder.rglob("entries/*/*")] == [".part"]
    assert used(cache) == ENTRY
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=240)
    if reopened:
        assert used(Cache(tmp_path / "c", 10**6)) == 0
    read(cache, source, "00")
    assert [path.suffix for path in cache.folder.rglob("entries/*/*")] == [""]
