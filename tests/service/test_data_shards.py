"""WebDataset shards: samples by name, labels, places in the tar; and tars that are not taken."""

import io
import json
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from service.data import shards
from service.data.formats import Spec, scan
from service.data.index import DatasetError, Index
from service.data.reader import Reader
from service.data.shards import WINDOW, Window, chosen, expand
from service.storage import LocalFolder
from tests.service.datafiles import fill, picture, shard


def indexed(folder: Path, data: bytes, **spec: object) -> Index:
    fill(folder, ["x.tar"], data)
    found = scan(LocalFolder(folder), Spec("webdataset", **spec))  # type: ignore[arg-type]
    assert isinstance(found, Index)
    return found


def test_each_sample_is_its_image_with_its_label(tmp_path: Path) -> None:
    images = [picture(i, 8 + i) for i in range(7)]
    for n, part in enumerate((images[:4], images[4:])):
        fill(tmp_path, [f"s/{n}.tar"], shard((f"{i}", {"png": d, "cls": b"%d" % (i + n)}) for i, d in enumerate(part)))
    found = scan(LocalFolder(tmp_path), Spec("webdataset", "s"))
    assert isinstance(found, Index)
    reader = Reader(LocalFolder(tmp_path), found)
    assert [reader.encoded(i) for i in range(7)] == images
    assert found.labels.tolist() == [0, 1, 2, 3, 1, 2, 3]
    assert found.classes == ("0", "1", "2", "3")
    assert reader.image(6).shape == (8, 14, 3)


def test_a_name_ends_at_its_first_dot_and_order_and_case_of_extensions_do_not_matter(tmp_path: Path) -> None:
    samples = [
        ("./a.b/0", {"CLS": b"3\n", "seg.png": b"no", "JPG": picture(0)}),
        ("./a.b/1", {"jpeg": picture(1), "txt": b"words", "json": json.dumps({"label": 1, "caption": "é"}).encode()}),
    ]
    found = indexed(tmp_path, shard(samples), classes=("k", "l", "m", "n"))
    assert found.labels.tolist() == [3, 1]
    assert found.classes == ("k", "l", "m", "n")


def test_samples_without_labels_are_images_without_labels(tmp_path: Path) -> None:
    found = indexed(tmp_path, shard([("0", {"webp": b"x"}), ("1", {"png": b"y", "json": b'{"caption": "z"}'})]))
    assert found.labels.tolist() == [-1, -1]
    assert found.classes == ()


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar_is_read_in_place(tmp_path: Path, format_: int) -> None:
    long = "folder/" * 13 + "n" * (60 if format_ == tarfile.USTAR_FORMAT else 300)
    with tarfile.open(tmp_path / "x.tar", "w", format=format_) as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in (("__meta__", b"m"), (f"{long}.png", picture(0)), (f"{long}.cls", b"0"), ("readme", b"r")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    found = scan(LocalFolder(tmp_path), Spec("webdataset"))
    assert isinstance(found, Index)
    assert Reader(LocalFolder(tmp_path), found).encoded(0) == picture(0)


def test_images_larger_than_the_window_are_stepped_over(tmp_path: Path) -> None:
    sizes = [WINDOW + 1, 10, 2 * WINDOW, 700]
    found = indexed(tmp_path, shard((f"{i}", {"png": bytes([i]) * n, "cls": b"%d" % i}) for i, n in enumerate(sizes)))
    assert found.length.tolist() == sizes
    reader = Reader(LocalFolder(tmp_path), found)
    assert all(set(reader.encoded(i)) == {i} for i in range(4))


def test_a_scan_holds_no_more_than_its_window(tmp_path: Path) -> None:
    data = shard((f"{i}", {"png": bytes(1_000_000), "cls": b"0"}) for i in range(40))
    fill(tmp_path, ["x.tar"], data)
    tracemalloc.start()
    shards.scan(LocalFolder(tmp_path), "", {"x.tar": len(data)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * WINDOW < len(data)


def test_a_window_reads_like_the_file(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3 * WINDOW)
    fill(tmp_path, ["k"], data)
    window, plain, random = Window(LocalFolder(tmp_path), "k", len(data)), io.BytesIO(data), np.random.default_rng(1)
    for _ in range(50):
        offset, size = int(random.integers(0, len(data) + 99)), int(random.choice([0, 1, 512, WINDOW - 1, WINDOW + 1]))
        assert (window.seek(offset), plain.seek(offset)) == (offset, offset)
        assert window.read(size) == plain.read(size)
        assert window.tell() == plain.tell()


LINK, DEVICE = tarfile.SYMTYPE, tarfile.CHRTYPE


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        ([("0", {"cls": b"1"})], r"sample 0 has 0 images \(cls\)"),
        ([("0", {"png": b"x", "jpg": b"y"})], r"sample 0 has 2 images \(jpg, png\)"),
        ([("0", {"ppm": b"x"})], "0 images"),
        ([("0", {"png": b"x", "PNG": b"y"})], "0.png is there twice"),
        ([("0", {"png": b"x", "cls": b"cat"})], r"0.cls holds no label: .*allowed: a whole number from 0"),
        ([("0", {"png": b"x", "cls": b"-1"})], "0.cls holds no label: -1"),
        ([("0", {"png": b"x", "json": b'{"label": 1.5}'})], "0.json holds no label: 1.5"),
        ([("0", {"png": b"x", "json": b'{"label": true}'})], "0.json holds no label: True"),
        ([("0", {"png": b"x", "json": b"{"})], "0.json holds no label"),
        ([("0", {"png": b"x", "json": b"[" * 100_000})], "0.json holds no label"),
        ([("0", {"png": b"x", "cls": b"0"}), ("1", {"png": b"x"})], "1 samples without a label.*x.tar at byte 2560"),
        ([("0", {"png": b"x", "cls": b"100000"})], "labels from 100000 to 100000"),
        ([("../0", {"png": b"x"})], "not a path below its folder: '../0.png'"),
        ([("/0", {"png": b"x"})], "not a path below its folder: '/0.png'"),
        ([], "holds no image"),
    ],
)  # fmt: skip
def test_samples_that_mean_nothing_are_refused_by_name(
    tmp_path: Path, samples: list[tuple[str, dict[str, bytes]]], says: str
) -> None:
    with pytest.raises(DatasetError, match=says) as caught:
        indexed(tmp_path, shard(samples))
    assert caught.value.field == "path"


def test_a_label_beyond_the_named_classes_is_the_fault_of_classes(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="labels from 2 to 2; allowed: 0 to 1") as caught:
        indexed(tmp_path, shard([("0", {"png": b"x", "cls": b"2"})]), classes=("a", "b"))
    assert caught.value.field == "classes"


@pytest.mark.parametrize("kind", [LINK, DEVICE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("0.png")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(DatasetError, match=r"0\.png is not a plain file"):
        scan(LocalFolder(tmp_path), Spec("webdataset"))


def test_damaged_tars_are_refused(tmp_path: Path) -> None:
    whole = shard((f"{i}", {"png": bytes(2000), "cls": b"0"}) for i in range(3))
    second = 512 + 2048 + 512 + 512
    for damaged in (b"", b"x" * 3000, whole[:700], whole[: second + 600], whole[: second + 100],
                    whole[:second] + b"?" * 512 + whole[second + 512 :]):  # fmt: skip
        with pytest.raises(DatasetError, match="not a whole, uncompressed tar"):
            indexed(tmp_path, damaged)


def test_a_negative_size_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("0.png")
        info.pax_headers = {"size": "-2048"}
        tar.addfile(info)
    with pytest.raises(DatasetError):
        scan(LocalFolder(tmp_path), Spec("webdataset"))


def test_braces_and_stars_name_shards() -> None:
    assert expand("t-{08..11}.tar") == ["t-08.tar", "t-09.tar", "t-10.tar", "t-11.tar"]
    assert expand("{a,b}{0..1}") == ["a0", "a1", "b0", "b1"]
    names = ["a/0.tar", "t-0.tar", "t-1.tar", "v-0.tar", "x.txt"]
    assert chosen(names, "*.tar") == names[:4]
    assert chosen(names, "{t-{0..1},v-0}.tar") == names[1:4]
    assert chosen(names, "t-?.tar") == names[1:3]


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("t-{0..3}.tar", "2 name no file under the path: t-2.tar, t-3.tar"),
        ("u-*.tar", r"name no file under the path: u-\*.tar"),
        ("{0..999999}.tar", "allowed: 1 to 100,000"),
        ("{3..1}.tar", "numbers that rise"),
        ("{0..999}{0..999}.tar", "more than 100,000 names"),
    ],
)
def test_a_pattern_that_names_too_little_or_too_much_is_refused(pattern: str, says: str) -> None:
    with pytest.raises(DatasetError, match=says) as caught:
        chosen(["t-0.tar", "t-1.tar"], pattern)
    assert caught.value.field == "shards"
