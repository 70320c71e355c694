"""Uploaded images: what is accepted, and how they are brought to a model's size."""

import hashlib
import io
import math
import struct
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from service.errors import FieldError, InvalidInput

MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
TENSOR = "application/x-npy"
NPY = b"\x93NUMPY"
MODES = {"RGB", "L", "1", "P"}
Resize = Literal["center-crop", "stretch", "refuse", "imagenet"]


class Checked(NamedTuple):
    """An image that will decode: its id (the digest of its bytes), media type and upright size in pixels."""

    id: str
    media_type: str
    width: int
    height: int


def refuse(message: str) -> InvalidInput:
    return InvalidInput(FieldError("body", message))


def check(data: bytes, max_pixels: int) -> Checked:
    """Decode an upload in full, once, so that no worker meets a bad one. Raises InvalidInput naming what is wrong."""
    if not data:
        raise refuse(f"is empty; send the bytes of an image: {', '.join(MEDIA_TYPES)}, or a .npy array")
    if is_tensor(data):
        return _check_tensor(data, max_pixels)
    try:
        with Image.open(io.BytesIO(data), formats=tuple(MEDIA_TYPES)) as image:
            _check_header(image, data, max_pixels)
            media_type = MEDIA_TYPES[str(image.format)]
            image.load()
            upright = ImageOps.exif_transpose(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise refuse(f"has too many pixels; allowed: {max_pixels:,} (width x height)") from e
    except UnidentifiedImageError as e:
        raise refuse(f"is not an image in a known format; allowed: {', '.join(MEDIA_TYPES)}") from e
    except (OSError, SyntaxError, ValueError, struct.error, EOFError) as e:
        raise refuse(f"is damaged or truncated and cannot be decoded ({e})") from e
    return Checked("sha256:" + hashlib.sha256(data).hexdigest(), media_type, *upright.size)


def is_tensor(data: bytes) -> bool:
    """Whether an upload is a .npy array, not a picture."""
    return data.startswith(NPY)


def tensor(data: bytes) -> NDArray[np.floating[Any]]:
    """A checked .npy upload: pixels [3, H, W] in [0, 1]."""
    array: NDArray[np.floating[Any]] = np.load(io.BytesIO(data), allow_pickle=False)
    return array


def _check_tensor(data: bytes, max_pixels: int) -> Checked:
    allowed = "allowed: a .npy array of float32 or float64, [3, H, W], in [0, 1]"
    file = io.BytesIO(data)
    if data[6:8] != b"\x01\x00":
        raise refuse(f"is a .npy file of another version than 1.0; {allowed}")
    try:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=1000)
    except Exception as e:  # numpy reads the header as a Python literal, and lets through whatever that raises
        raise refuse(f"is a damaged .npy file ({e}); {allowed}") from e
    # All of this before an array is made: a header may declare any size.
    whole = all(type(n) is int and n > 0 for n in shape)
    if dtype not in (np.float32, np.float64) or len(shape) != 3 or shape[0] != 3 or not whole:
        raise refuse(f"is {dtype} {list(shape)}; {allowed}")
    if shape[1] * shape[2] > max_pixels:
        raise refuse(f"is {shape[2]} x {shape[1]}; allowed: {max_pixels:,} pixels (width x height)")
    if len(data) - file.tell() != math.prod(shape) * dtype.itemsize:
        raise refuse(f"is a truncated or overlong .npy file; {allowed}")
    array = tensor(data)
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise refuse(f"has values outside [0, 1], or not finite; {allowed}")
    return Checked("sha256:" + hashlib.sha256(data).hexdigest(), TENSOR, shape[2], shape[1])


def _check_header(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Everything that can be refused before a pixel is decoded."""
    width, height = image.size
    if width * height > max_pixels:
        raise refuse(f"is {width} x {height}; allowed: {max_pixels:,} pixels (width x height)")
    if getattr(image, "n_frames", 1) > 1:
        raise refuse("is animated; send one frame as a still image")
    # Pillow shows a 16-bit colour PNG as 8-bit RGB; only the header's bit depth tells.
    if image.mode.startswith(("I", "F")) or (image.format == "PNG" and data[24] == 16):
        raise refuse("has 16 bits or more a channel; allowed: 8")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        raise refuse("has an alpha channel; flatten it onto a background first")
    if image.mode not in MODES:
        raise refuse(f"has colour mode {image.mode}; allowed: RGB, or gray")


def decode(data: bytes) -> Image.Image:
    """A checked upload as upright RGB."""
    with Image.open(io.BytesIO(data), formats=tuple(MEDIA_TYPES)) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def fit(image: Image.Image, size: int, how: Resize) -> Image.Image:
    """RGB of `size` x `size`, by bicubic resampling. Raises ValueError if `how` is "refuse" and the size differs.

    "imagenet" is how networks are evaluated there: for 224 pixels the shorter side to 256, bilinear, and the centre.
    """
    if image.size == (size, size):
        return image
    if how == "refuse":
        raise ValueError(f"is {image.width} x {image.height}, not {size} x {size}")
    if how == "stretch":
        return image.resize((size, size), Image.Resampling.BICUBIC)
    if how == "imagenet":
        scale = size * 256 / 224 / min(image.size)
        wide, high = (max(size, round(side * scale)) for side in image.size)
        left, top = round((wide - size) / 2), round((high - size) / 2)
        return image.resize((wide, high), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
    return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def describe_resize(width: int, height: int, size: int, how: Resize) -> str | None:
    """What `fit` will do, in words, or None if nothing."""
    if (width, height) == (size, size):
        return None
    if how == "imagenet":
        return f"{width} x {height}: shorter side to {round(size * 256 / 224)}, bilinear, {size} x {size} of its centre"
    how_square = {"center-crop": "centre crop to a square, ", "stretch": "stretched, "}.get(how, "")
    return f"{width} x {height} to {size} x {size}: {'' if width == height else how_square}bicubic"
