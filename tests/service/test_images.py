"""Uploads: what is accepted, what is refused and why, and how images come to a model's size."""

import hashlib
import io
import re
import struct
import tracemalloc
import zlib
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from service import images
from service.errors import InvalidInput

LIMIT = 16_000_000


def encode(image: Image.Image, fmt: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def noise(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def png(width: int, height: int, depth: int, colour: int, body: bytes) -> bytes:
    """A PNG written by hand, for what Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


ANIMATED = encode(noise(), "WEBP", save_all=True, append_images=[noise("L").convert("RGB")])
BLACK = np.zeros((3, 4, 5), np.float32)
TENSOR = "allowed: a .npy array of float32 or float64, [3, H, W], in [0, 1]"


def with_header(header: str, body: bytes = BLACK.tobytes(), version: bytes = b"\1\0") -> bytes:
    """A .npy file whose header is written by hand."""
    length = struct.pack("<H" if version == b"\1\0" else "<I", len(header))
    return b"\x93NUMPY" + version + length + header.encode() + body


def declared(shape: str, dtype: str = "<f4") -> str:
    return f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n"


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([[[{"any": "object"}]]] * 3, dtype=object), allow_pickle=True)
    return file.getvalue()


BAD_TENSORS = {
    "bytes, not floats": (npy(np.zeros((3, 4, 5), np.uint8)), f"is uint8 .*{re.escape(TENSOR)}"),
    "halves": (npy(BLACK.astype(np.float16)), "is float16"),
    "complex": (npy(BLACK.astype(np.complex64)), "is complex64"),
    "big-endian": (npy(BLACK.astype(">f4")), "is >f4"),
    "objects": (pickled(), re.escape("is object [3, 1, 1]")),
    "records": (with_header(declared("(3, 4, 5)").replace("'<f4'", "[('a', '<f4')]")), "is \\[\\('a', '<f4'\\)\\]"),
    "a batch": (npy(BLACK[None]), re.escape("is float32 [1, 3, 4, 5]")),
    "channels last": (npy(BLACK.transpose(1, 2, 0)), re.escape("is float32 [4, 5, 3]")),
    "gray": (npy(BLACK[0]), re.escape("is float32 [4, 5]")),
    "no pixels": (npy(BLACK[:, :0]), re.escape("is float32 [3, 0, 5]")),
    "above 1": (npy(BLACK + 1.0001), "has values outside"),
    "below 0": (npy(BLACK - 1e-6), "has values outside"),
    "not a number": (npy(BLACK + np.float32("nan")), "or not finite"),
    "infinite": (npy(BLACK + np.float32("inf")), "or not finite"),
    "one value cut off": (npy(BLACK)[:-4], "truncated or overlong"),
    "one byte too many": (npy(BLACK) + b"\0", "truncated or overlong"),
    "cut in its header": (npy(BLACK)[:40], "damaged .npy file"),
    "cut in its magic": (npy(BLACK)[:7], "of another version than 1.0"),
    "version 2": (with_header(declared("(3, 4, 5)"), version=b"\2\0"), "of another version than 1.0"),
    "version 3": (with_header(declared("(3, 4, 5)"), version=b"\3\0"), "of another version than 1.0"),
    "huge in a tiny file": (with_header(declared("(3, 1000000, 1000000)")), "is 1000000 x 1000000; allowed"),
    "large in a tiny file": (with_header(declared("(3, 4000, 4000)")), "truncated or overlong"),
    "a negative size": (with_header(declared("(3, -4, -5)")), re.escape("is float32 [3, -4, -5]")),
    "a truth value for a size": (with_header(declared("(3, True, True)"), b"\0" * 12), "is float32"),
    "a header that is no dictionary": (with_header("{[]: 1}\n"), "damaged .npy file"),
    "a header without an end": (with_header("{'descr': (\n"), "damaged .npy file"),
    "a very long header": (with_header(declared("(3, 4, 5)") + " " * 2000), "damaged .npy file"),
}  # fmt: skip
REFUSED = {
    "empty": (b"", "is empty"),
    "text": (b"this is not an image", "not an image in a known format; allowed: PNG, JPEG, WEBP"),
    "gif": (encode(noise(), "GIF"), "not an image in a known format"),
    "truncated png": (encode(noise())[:-500], "damaged or truncated"),
    "truncated jpeg": (encode(noise(), "JPEG")[:-300], "damaged or truncated"),
    "damaged png": (encode(noise()).replace(b"IDAT", b"IDAT\xff", 1), "damaged or truncated"),
    "16-bit gray": (encode(Image.fromarray(np.zeros((8, 8), np.uint16))), "16 bits or more a channel; allowed: 8"),
    "16-bit colour": (png(2, 2, 16, 2, b"\0" * (2 * 13)), "16 bits or more a channel; allowed: 8"),
    "cmyk": (encode(noise("CMYK"), "JPEG"), "colour mode CMYK; allowed: RGB"),
    "alpha": (encode(noise("RGBA")), "alpha channel"),
    "animated webp": (ANIMATED, "animated"),
    "animated png": (encode(noise(), save_all=True, append_images=[noise("L").convert("RGB")]), "animated"),
    "too many pixels": (encode(Image.new("1", (4001, 4000))), "4001 x 4000; allowed: 16,000,000"),
    "bomb": (png(30_000, 30_000, 1, 0, b"\0" * 1000), "too many pixels; allowed: 16,000,000"),
    **{f"tensor, {case}": refused for case, refused in BAD_TENSORS.items()},
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_image_is_refused_with_the_reason(case: str) -> None:
    data, reason = REFUSED[case]
    with pytest.raises(InvalidInput, match=reason) as caught:
        images.check(data, LIMIT)
    assert [e.field for e in caught.value.errors] == ["body"]


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP"])
def test_an_rgb_image_is_accepted_as_it_is(fmt: str) -> None:
    data = encode(noise(), fmt)
    checked = images.check(data, LIMIT)
    assert checked == ("sha256:" + hashlib.sha256(data).hexdigest(), f"image/{fmt.lower()}", 40, 30)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_tensor_comes_back_as_it_was(dtype: type[np.floating[Any]], order: Literal["C", "F"]) -> None:
    array = np.asarray(np.random.default_rng(0).random((3, 4, 5)), dtype, order=order)
    array[0, 0, :2] = 0, 1  # the ends are in the range
    data = npy(array)
    checked = images.check(data, LIMIT)
    assert checked == ("sha256:" + hashlib.sha256(data).hexdigest(), "application/x-npy", 5, 4)
    back = images.tensor(data)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, array)


def test_a_tensor_is_not_made_as_large_as_its_header_says() -> None:
    for shape in ("(3, 4000, 4000)", "(3, 10000000, 10000000)"):
        data = with_header(declared(shape))
        tracemalloc.start()
        with pytest.raises(InvalidInput):
            images.check(data, LIMIT)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1_000_000


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_gray_and_palette_images_decode_to_rgb(mode: str) -> None:
    data = encode(noise(mode))
    images.check(data, LIMIT)
    assert (images.decode(data).mode, images.decode(data).size) == ("RGB", (40, 30))


def test_a_photo_taken_sideways_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn a quarter clockwise
    data = encode(noise(), "JPEG", exif=exif)
    checked = images.check(data, LIMIT)
    assert (checked.width, checked.height) == images.decode(data).size == (30, 40)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = noise(size=(32, 32))
    assert images.fit(image, 32, "center-crop") is image
    assert images.describe_resize(32, 32, 32, "center-crop") is None


def test_a_centre_crop_keeps_the_middle_square() -> None:
    image = Image.new("RGB", (96, 32), "red")
    image.paste("blue", (32, 0, 64, 32))
    assert images.fit(image, 32, "center-crop").getcolors() == [(32 * 32, (0, 0, 255))]
    assert images.describe_resize(96, 32, 32, "center-crop") == "96 x 32 to 32 x 32: centre crop to a square, bicubic"


def test_a_stretch_keeps_the_whole_image() -> None:
    image = Image.new("RGB", (96, 32), "red")
    image.paste("blue", (48, 0, 96, 32))
    left, right = images.fit(image, 32, "stretch").getpixel((2, 2)), images.fit(image, 32, "stretch").getpixel((29, 2))
    assert (left, right) == ((255, 0, 0), (0, 0, 255))
    assert images.describe_resize(96, 32, 32, "stretch") == "96 x 32 to 32 x 32: stretched, bicubic"


def test_refuse_refuses_another_size() -> None:
    with pytest.raises(ValueError, match="is 40 x 30, not 32 x 32"):
        images.fit(noise(), 32, "refuse")
