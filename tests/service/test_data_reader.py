"""Reading images of every kind of data set over every storage, and the check of a sample."""

import io
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.data.cache import Cache, ChangedError
from service.data.formats import Spec, scan
from service.data.index import Arrays, DatasetError, Index
from service.data.reader import Reader, check, decode
from service.storage import LocalFolder, ObjectNotFound, Storage
from tests.service.datafiles import fill, keep, noise, picture, shard

FORMATS = ["image_folder", "images", "webdataset"]


def objects(kind: str, images: list[bytes]) -> dict[str, bytes]:
    if kind == "webdataset":
        return {f"d/{n}.tar": shard([(f"{n}{i}", {"png": image, "cls": b"%d" % n}) for i, image in enumerate(part)])
                for n, part in enumerate((images[:2], images[2:]))}  # fmt: skip
    return {f"d/{'ab'[i // 2]}/{i}.png": image for i, image in enumerate(images)}


@pytest.mark.parametrize("cached", [False, True], ids=["direct", "cached"])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_from_every_storage(storage: Storage, tmp_path: Path, kind: str, cached: bool) -> None:
    images = [picture(i, 10 + i, 9) for i in range(4)]
    keep(storage, objects(kind, images))
    found = scan(storage, Spec(kind, "d"))  # type: ignore[arg-type]
    assert isinstance(found, Index)
    reader = Reader(storage, found, Cache(tmp_path / "cache", 1_000_000) if cached else None)
    for _ in range(2):
        for i, data in enumerate(images):
            assert np.array_equal(reader.image(i), np.asarray(Image.open(io.BytesIO(data))))
    assert reader.labels.tolist() == ([-1] * 4 if kind == "images" else [0, 0, 1, 1])
    assert (len(reader), reader.label(3)) == (4, reader.labels[3])
    again = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(again.image(2), reader.image(2))
    if cached:
        for key, _ in list(storage.entries("d/")):
            storage.delete(key)
        assert np.array_equal(again.image(0), reader.image(0))


def test_threads_read_together(tmp_path: Path) -> None:
    fill(tmp_path / "d", [])
    for i in range(20):
        fill(tmp_path / "d", [f"{i:02}.png"], picture(i))
    found = scan(LocalFolder(tmp_path / "d"), Spec("images"))
    assert isinstance(found, Index)
    reader = Reader(LocalFolder(tmp_path / "d"), found, Cache(tmp_path / "cache", 1_000_000))
    with ThreadPoolExecutor(8) as pool:
        for i, pixels in zip(list(range(20)) * 5, pool.map(reader.image, list(range(20)) * 5), strict=True):
            assert np.array_equal(pixels, noise(i, 8, 8, 3))


@pytest.mark.slow
def test_another_process_reads_from_a_pickle(tmp_path: Path) -> None:
    fill(tmp_path, ["d/a/0.png"], picture(5))
    found = scan(LocalFolder(tmp_path / "d"), Spec("image_folder"))
    assert isinstance(found, Index)
    pickled = pickle.dumps(Reader(LocalFolder(tmp_path / "d"), found, Cache(tmp_path / "cache", 1_000_000)))
    code = "import pickle, sys; sys.stdout.buffer.write(pickle.load(sys.stdin.buffer).image(0).tobytes())"
    done = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, check=True)
    assert done.stdout == noise(5, 8, 8, 3).tobytes()


def test_a_file_that_changed_or_went_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path, ["a/0.png", "a/1.png"], picture(0))
    source = LocalFolder(tmp_path)
    found = scan(source, Spec("image_folder"))
    assert isinstance(found, Index)
    fill(tmp_path, ["a/0.png"], picture(0, 20))
    (tmp_path / "a/1.png").unlink()
    cached = Reader(source, found, Cache(tmp_path / "cache", 1_000_000))
    with pytest.raises(ValueError, match=r"a/0.png has \d+ bytes, not the"):
        Reader(source, found).image(0)
    with pytest.raises(ChangedError, match=r"a/0\.png"):
        cached.image(0)
    for reader in (Reader(source, found), cached):
        with pytest.raises(ObjectNotFound):
            reader.image(1)


@pytest.mark.parametrize(
    ("fmt", "mode"), [("JPEG", "CMYK"), ("JPEG", "L"), ("PNG", "RGBA"), ("PNG", "P"), ("WEBP", "RGB")]
)
def test_every_mode_becomes_rgb_as_torchvision_makes_it(fmt: str, mode: str) -> None:
    data = picture(0, 12, 7, fmt, mode)
    found = decode(data)
    assert np.array_equal(found.pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert found.pixels.shape == (7, 12, 3)
    assert found.mode == mode


def test_an_image_is_not_turned_by_its_exif_data() -> None:
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(0, 4, 9, 3)).save(out, "PNG", exif=exif)
    assert np.array_equal(decode(out.getvalue()).pixels, noise(0, 4, 9, 3))


def animated() -> bytes:
    out = io.BytesIO()
    frames = [Image.fromarray(noise(i, 4, 4, 3)) for i in range(2)]
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return out.getvalue()


def deep() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4)).save(out, "PNG")
    return out.getvalue()


BAD = {
    "text": (b"hello", "not an image in a known format"),
    "gif": (picture(0, fmt="GIF", mode="P"), "not an image in a known format"),
    "cut": (picture(0, 50, 50, "JPEG")[:-200], "damaged or truncated"),
    "animated": (animated(), "animated"),
    "deep": (deep(), "16 bits"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_decoded_is_said(name: str) -> None:
    data, says = BAD[name]
    with pytest.raises(ValueError, match=says):
        decode(data)


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(ValueError, match="is 8 x 8; allowed: 63 pixels"):
        decode(picture(0), max_pixels=63)
    out = io.BytesIO()
    Image.new("1", (14_000, 14_000)).save(out, "PNG")
    with pytest.raises(ValueError, match="too many pixels"):
        decode(out.getvalue())


def test_a_check_tells_sizes_modes_and_counts(tmp_path: Path) -> None:
    for i in range(6):
        fill(tmp_path, [f"{'ab'[i % 3 == 0]}/{i}.png"], picture(i, 8, 8 + 4 * (i == 5), mode="L" if i == 1 else "RGB"))
    found = scan(LocalFolder(tmp_path), Spec("image_folder"))
    report = check(LocalFolder(tmp_path), found, 100)
    assert (report.images, report.sampled, report.class_counts, report.empty) == (6, 6, (4, 2), ())
    assert report.sizes == (((8, 8), 5), ((8, 12), 1))
    assert (report.smallest, report.largest, report.image_size) == ((8, 8), (8, 12), None)
    assert report.modes == {"RGB": 5, "L": 1}
    assert check(LocalFolder(tmp_path), found, 3).sampled == 3
    (tmp_path / "a/5.png").unlink()
    assert check(LocalFolder(tmp_path), scan(LocalFolder(tmp_path), Spec("image_folder")), 9).image_size == 8


def test_a_check_of_arrays_names_the_classes_without_images(tmp_path: Path) -> None:
    report = check(LocalFolder(tmp_path), Arrays(noise(0, 5, 6, 6, 3), np.array([0, 2, 2, 0, -1]), ("x", "y", "z")), 3)
    assert (report.class_counts, report.empty, report.image_size) == ((2, 0, 2), ("y",), 6)


def test_a_check_names_what_it_cannot_read(tmp_path: Path) -> None:
    fill(tmp_path, [f"{i}.png" for i in range(3)], picture(0))
    fill(tmp_path, [f"bad{i}.png" for i in range(7)], b"rubbish")
    source = LocalFolder(tmp_path)
    with pytest.raises(DatasetError, match=r"7 unreadable images in a sample of 10: .*bad0\.png is not.* and 2 more"):
        check(source, scan(source, Spec("images")), 100)


def test_the_seed_decides_which_images_are_looked_at(tmp_path: Path) -> None:
    for i in range(40):
        fill(tmp_path, [f"{i:02}.png"], picture(i, 5 + i))
    source = LocalFolder(tmp_path)
    found = scan(source, Spec("images"))
    first, again, other = (check(source, found, 5, seed) for seed in (0, 0, 1))
    assert first == again
    assert set(first.sizes) != set(other.sizes)
