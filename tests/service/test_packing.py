"""Streamed archives are what the usual readers take them for, at any size."""

import io
import shutil
import subprocess
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from service.objects import StorageError
from service.packing import Member, gathered, tarred, zipped

Pack = Callable[[Iterable[Member]], Iterator[bytes]]
AT = 1_700_000_001.5
DATA = {
    "job.json": b"{}",
    "items/0000000/a.png": b"\x89PNG" * 999,
    "empty": b"",
    "übergröße": b"x",
    "n" * 180: b"y",
}
MEMBERS = [Member(name, len(data), AT, data) for name, data in DATA.items()]


def unzipped(path: Path, *names: str) -> None:
    """Another reader's opinion, of all that is in the archive or of these, where there is one."""
    if unzip := shutil.which("unzip"):
        done = subprocess.run([unzip, "-tqq", path, *names], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_zip_is_read_back(tmp_path: Path, streamed: bool) -> None:
    pieces = [Member(name, len(data), AT, iter([data[:7], data[7:]])) for name, data in DATA.items()]
    path = tmp_path / "a.zip"
    path.write_bytes(b"".join(zipped(pieces if streamed else MEMBERS)))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == DATA
        assert archive.namelist() == list(DATA)
        info = archive.infolist()[0]
        assert (info.date_time, info.compress_type, info.external_attr >> 16) == (
            (2023, 11, 14, 22, 13, 20),
            0,
            0o100644,
        )
    unzipped(path)


def test_a_tar_is_read_back_as_it_comes() -> None:
    stream = io.BytesIO(b"".join(tarred(MEMBERS)))
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        found = {m.name: (m.mtime, archive.extractfile(m).read()) for m in archive}  # type: ignore[union-attr]
    assert found == {name: (int(AT), data) for name, data in DATA.items()}


def test_a_zip_takes_files_of_unknown_size() -> None:
    with zipfile.ZipFile(io.BytesIO(b"".join(zipped([Member("a", None, AT, iter([b"b", b"c"]))])))) as archive:
        assert archive.read("a") == b"bc"


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("data", [b"short", [b"far ", b"too long"]])
def test_a_file_of_another_length_ends_the_archive(pack: Pack, data: bytes | list[bytes]) -> None:
    with pytest.raises(StorageError, match="a is not 10 bytes long"):
        list(pack([Member("a", 10, AT, data)]))


def test_a_zip_may_have_many_files_in_little_memory(tmp_path: Path) -> None:
    count, path = 150_000, tmp_path / "many.zip"
    members = (Member(f"items/{n // 5:07d}/result-{n % 5}.png", 4, AT, n.to_bytes(4, "big")) for n in range(count))
    tracemalloc.start()
    with path.open("wb") as file:
        for chunk in gathered(zipped(members)):
            file.write(chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6_000_000
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == count
        assert archive.read(f"items/{(count - 1) // 5:07d}/result-4.png") == (count - 1).to_bytes(4, "big")
    unzipped(path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_may_be_larger_than_4_gb(tmp_path: Path, kind: str) -> None:
    zeros, size = bytes(32 << 20), 144 * (32 << 20)

    def large() -> Iterator[bytes]:
        yield from [zeros] * 144

    members = [Member("large", size, AT, large()), Member("after", 3, AT, b"end")]
    path = tmp_path / "large"
    with path.open("wb") as file:
        for chunk in (zipped if kind == "zip" else tarred)(members):
            file.seek(len(chunk), 1) if chunk is zeros else file.write(chunk)  # a file with a hole
    if kind == "tar":
        with tarfile.open(path) as tar:
            assert [(m.name, m.size) for m in tar] == [("large", size), ("after", 3)]
        return
    with zipfile.ZipFile(path) as archive:
        assert [(m.filename, m.file_size) for m in archive.infolist()] == [("large", size), ("after", 3)]
        assert archive.testzip() is None
    unzipped(path, "after")


def test_chunks_are_gathered() -> None:
    assert list(gathered([b"a", b"b", b"", b"cd", b"e"], 2)) == [b"ab", b"cd", b"e"]
