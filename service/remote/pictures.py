"""Pictures of any kind as the bytes that the API takes, and back."""

import io
import json
from pathlib import Path
from typing import Any


class UsageError(ValueError):
    """What was given is nothing that can be asked for: no image, no address, no such choice."""


def is_picture(value: Any) -> bool:
    """Whether it is a file's bytes, a PIL image, an array or a tensor; found without importing what makes those."""
    return isinstance(value, bytes) or hasattr(value, "__array__") or hasattr(value, "tobitmap")


def encoded(picture: Any) -> bytes:
    """The bytes to upload. Files, and arrays of floats, are exact; a PIL image and uint8 become PNG.

    Arrays and tensors are [3, H, W] or [H, W, 3], uint8, or floats in [0, 1]. Raises UsageError for any other.
    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, str | Path):
        return Path(picture).read_bytes()
    if hasattr(picture, "tobitmap"):
        return _png(picture)
    return _array(picture)


def _png(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _array(picture: Any) -> bytes:
    import numpy as np

    if hasattr(picture, "detach"):  # a tensor, which may be on a device or need a gradient
        picture = picture.detach().cpu()
        picture = picture.float() if picture.is_floating_point() and picture.element_size() < 4 else picture
    array = np.asarray(picture)
    if array.ndim != 3 or 3 not in (array.shape[0], array.shape[2]):
        raise UsageError(f"is an array {list(array.shape)}; allowed: [3, H, W] or [H, W, 3]")
    array = array if array.shape[0] == 3 else array.transpose(2, 0, 1)
    if array.dtype == np.uint8:
        from PIL import Image

        return _png(Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0))))
    if array.dtype.kind != "f":
        raise UsageError(f"is an array of {array.dtype}; allowed: uint8, or floats in [0, 1]")
    file = io.BytesIO()
    wide = array.dtype.itemsize > 4
    np.lib.format.write_array(file, np.ascontiguousarray(array, "<f8" if wide else "<f4"), version=(1, 0))
    return file.getvalue()


def tensors(data: bytes) -> dict[str, Any]:
    """The arrays of a safetensors file by name, in numpy's types. Raises UsageError for a file that is none."""
    import numpy as np

    types = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        body = memoryview(data)[8 + length :]
        return {
            name: np.frombuffer(body[slice(*of["data_offsets"])], types[of["dtype"]]).reshape(of["shape"])
            for name, of in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UsageError("is no safetensors file of plain numbers") from e
