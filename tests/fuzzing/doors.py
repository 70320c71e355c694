"""The doors where bytes of strangers are decoded, and what must hold of whatever is sent to them.

Each takes the bytes and answers whether they were accepted. It raises AssertionError where something accepted is not
what it should be, and anything else only if the door itself did, which it never may.
"""

import io
import os
import struct
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

MOST_PIXELS = 1_000_000
LONGEST_REFUSAL = 20_000
PNG_START = b"\x89PNG\r\n\x1a\n"
CANARY = Path(tempfile.gettempdir()) / "robustreps-a-pickle-was-run"


class Door(NamedTuple):
    """What takes the bytes; valid ones to begin with; and what makes changed ones consistent again, where it can."""

    knock: Callable[[bytes], bool]
    seeds: Callable[[], list[bytes]]
    mended: Callable[[bytes], bytes]


def _check_refusal(said: str) -> None:
    assert 0 < len(said) < LONGEST_REFUSAL


def image(data: bytes) -> bool:
    """As of `POST /v1/images`: what is accepted decodes, to the size that is told."""
    from service import images
    from service.errors import InvalidInput

    try:
        checked = images.check(data, MOST_PIXELS)
    except InvalidInput as refusal:
        _check_refusal(refusal.detail)
        return False
    assert checked.width * checked.height <= MOST_PIXELS
    if images.is_tensor(data):
        pixels = images.tensor(data)
        assert pixels.shape == (3, checked.height, checked.width)
        assert pixels.min() >= 0
        assert pixels.max() <= 1
    else:
        assert checked.media_type in images.MEDIA_TYPES.values()
        decoded = images.decode(data)
        assert (decoded.mode, decoded.size) == ("RGB", (checked.width, checked.height))
        images.fit(decoded, 32, "center-crop")
    return True


def image_seeds() -> list[bytes]:
    found, pixels = [], np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode, fmt, options in (("RGB", "PNG", {}), ("P", "PNG", {}), ("1", "PNG", {}), ("L", "PNG", {"dpi": (9, 9)}),
                               ("RGB", "JPEG", {"exif": exif}), ("RGB", "JPEG", {"progressive": True}),
                               ("L", "JPEG", {}), ("RGB", "WEBP", {"exif": exif}),
                               ("RGB", "WEBP", {"lossless": True})):  # fmt: skip
        Image.fromarray(pixels).convert(mode).save(file := io.BytesIO(), fmt, **options)
        found.append(file.getvalue())
    for dtype in (np.float32, np.float64):
        np.save(file := io.BytesIO(), (pixels.transpose(2, 0, 1) / 255).astype(dtype))
        found.append(file.getvalue())
    return found


def with_right_sums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold by now: else a decoder looks no further."""
    if not data.startswith(PNG_START):
        return data
    made, place = [PNG_START], len(PNG_START)
    while place + 12 <= len(data):
        end = place + 8 + min(int.from_bytes(data[place : place + 4]), len(data) - place - 12)
        made += [data[place:end], struct.pack(">I", zlib.crc32(data[place + 4 : end]))]
        place = end + 4
    return b"".join(made) + data[place:]


def checkpoint(data: bytes) -> bool:
    """As a worker reads what was posted to `/v1/checkpoints`: nothing of it is run, and weights are finite."""
    from workers.engine.checkpoints import CheckpointError, read

    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        Path(file.name).write_bytes(data)
        try:
            weights = read(Path(file.name)).weights
        except CheckpointError as refusal:
            _check_refusal(str(refusal))
            return False
        finally:
            assert not CANARY.exists(), "the pickle was run"
    assert weights
    assert all(weight.isfinite().all() for weight in weights.values())
    return True


def weights() -> dict[str, Any]:
    import torch

    return {"a.weight": torch.linspace(0, 1, 40), "b": torch.arange(6).view(2, 3), "c": torch.ones(2).half()}


def checkpoint_seeds() -> list[bytes]:
    import torch
    from safetensors.torch import save

    tensors = weights()
    trained = {"config": {"architecture": "x"}, "model": tensors, "ema": None, "accuracy": np.float64(0.5),
               "schedule": {"milestones": Counter([1, 2])}}  # fmt: skip
    found = [save(tensors)]
    for value in (tensors, trained):
        for form in (True, False):
            torch.save(value, file := io.BytesIO(), _use_new_zipfile_serialization=form)
            found.append(file.getvalue())
    return found


def with_pickle(pickle: bytes) -> bytes:
    """An archive of torch.save with another pickle in it, beside the storages of `weights`."""
    import torch

    torch.save(weights(), file := io.BytesIO())
    made = io.BytesIO()
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(made, "w") as other:
        for name in archive.namelist():
            other.writestr(name, pickle if name.endswith("data.pkl") else archive.read(name))
    return made.getvalue()


def pickled(data: bytes) -> bool:
    """As a checkpoint's pickle, which nothing before it has to be right for."""
    return checkpoint(with_pickle(data))


def pickle_seeds() -> list[bytes]:
    found = []
    for seed in checkpoint_seeds():
        if seed.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(seed)) as archive:
                found += [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
    return found


def unchanged(data: bytes) -> bytes:
    return data


DOORS = {
    "image": Door(image, image_seeds, with_right_sums),
    "checkpoint": Door(checkpoint, checkpoint_seeds, unchanged),
    "pickle": Door(pickled, pickle_seeds, unchanged),
}


def quiet() -> None:
    """Libraries warn of what is odd about a file; the service does not stop at that."""
    warnings.simplefilter("ignore")


def crashing(data: bytes) -> bool:
    if data == b"crash":
        os.abort()
    if data == b"fill":
        bytearray(300 << 20)
    if data == b"slow":
        end = time.process_time() + 6
        while time.process_time() < end:
            pass
    if data == b"raise":
        raise KeyError(data)
    return True


PLANTED = Door(crashing, lambda: [b"seed"], unchanged)
"""One that does all that no door may."""
