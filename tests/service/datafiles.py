"""Small data sets on disk: pictures, folders of them, and WebDataset shards."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.objects import Storage


def noise(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def picture(seed: int, width: int = 8, height: int = 8, fmt: str = "PNG", mode: str = "RGB") -> bytes:
    """Noise as an image file."""
    out = io.BytesIO()
    Image.fromarray(noise(seed, height, width, 3)).convert(mode).save(out, fmt)
    return out.getvalue()


def fill(folder: Path, files: Iterable[str], data: bytes = b"x") -> None:
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def shard(samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> bytes:
    """A tar of samples, each a key and its files by extension."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for key, files in samples:
            for suffix, data in files.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def keep(storage: Storage, objects: Mapping[str, bytes]) -> None:
    for key, data in objects.items():
        storage.put(key, data, "application/octet-stream")
