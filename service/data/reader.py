"""Reading a data set's images, and looking at a sample of them."""

import io
import struct
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from service import images
from service.data.cache import Cache
from service.data.index import NAMED, UNLABELLED, Arrays, DatasetError, Index, Ints, some
from service.objects import Source, StorageError

MAX_PIXELS = 89_478_485
"""Where Pillow begins to suspect a bomb. ImageNet has images beyond an upload's limit."""
WAITS = (0.5, 2.0, 8.0)
"""Seconds between attempts at a storage that fails."""
THREADS = 8


class Decoded(NamedTuple):
    """uint8 [H, W, 3], and the colour mode that it was stored in."""

    pixels: NDArray[np.uint8]
    mode: str


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Decoded:
    """A PNG, JPEG or WebP of any 8-bit colour mode as RGB, as torchvision reads it: neither turned nor blended.

    Raises ValueError saying what is wrong.
    """
    try:
        with Image.open(io.BytesIO(data), formats=tuple(images.MEDIA_TYPES)) as image:
            if image.width * image.height > max_pixels:
                raise ValueError(f"is {image.width} x {image.height}; allowed: {max_pixels:,} pixels")
            if image.mode.startswith(("I", "F")) or (image.format == "PNG" and data[24] == 16):
                raise ValueError("has 16 bits or more a channel; allowed: 8")
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # whose others are previews
                raise ValueError("is animated")
            mode = image.mode
            through = image.convert("RGBA") if mode == "P" and "transparency" in image.info else image
            return Decoded(np.array(through.convert("RGB")), mode)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise ValueError(f"has too many pixels; allowed: {max_pixels:,}") from e
    except UnidentifiedImageError as e:
        raise ValueError(f"is not an image in a known format; allowed: {', '.join(images.MEDIA_TYPES)}") from e
    except (OSError, SyntaxError, struct.error, EOFError) as e:
        raise ValueError(f"is damaged or truncated and cannot be decoded ({e})") from e


class Reader:
    """The images of an index, by place. Many threads may read; another process gets its own by pickling."""

    def __init__(self, source: Source, index: Index, cache: Cache | None = None) -> None:
        self.source, self.index, self.cache = source, index, cache
        self.labels: Ints = index.labels

    def __reduce__(self) -> tuple[Any, ...]:
        return Reader, (self.source, self.index, self.cache)

    def __len__(self) -> int:
        return len(self.index)

    def label(self, i: int) -> int:
        return int(self.labels[i])

    def encoded(self, i: int) -> bytes:
        """The bytes of the image's file. A storage that fails is asked again for some seconds.

        Raises ObjectNotFound, StorageError, OSError, or ValueError if the file is not the size that it had.
        """
        for wait in WAITS:
            try:
                return self._encoded(i)
            except StorageError:
                time.sleep(wait)
        return self._encoded(i)

    def _encoded(self, i: int) -> bytes:
        index = self.index
        file, start, length = int(index.files[i]), int(index.offset[i]), int(index.length[i])
        key, size = index.prefix + index.name(file), int(index.sizes[file])
        if self.cache is not None:
            return self.cache.read(self.source, key, size, start, length)
        if length < size:
            return self.source.get_range(key, start, length)
        data = self.source.get(key)
        if len(data) != size:
            raise ValueError(f"{key} has {len(data)} bytes, not the {size} it had")
        return data

    def decoded(self, i: int) -> Decoded:
        """Raises as `encoded` does, or ValueError if it is no image."""
        data = self.encoded(i)
        try:
            return decode(data)
        except ValueError as e:
            raise ValueError(f"{self.index.where(i)} {e}") from e

    def image(self, i: int) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]. Raises as `decoded` does."""
        return self.decoded(i).pixels


class Report(NamedTuple):
    """What a check found. Sizes are (width, height) in pixels, of the sample."""

    images: int
    sampled: int
    sizes: tuple[tuple[tuple[int, int], int], ...]
    """The most common, and how often."""
    smallest: tuple[int, int]
    largest: tuple[int, int]
    modes: dict[str, int]
    class_counts: tuple[int, ...]
    empty: tuple[str, ...]
    """Classes without an image."""

    @property
    def image_size(self) -> int | None:
        """The side in pixels, if every image of the sample is a square of one size."""
        width, height = self.largest
        return width if len(self.sizes) == 1 and width == height else None


def check(source: Source, found: Index | Arrays, sample: int, seed: int = 0) -> Report:
    """Decode a sample of the images, drawn by `seed`, and count the classes of all.

    Raises DatasetError naming what cannot be decoded, StorageError, or ObjectNotFound.
    """
    if isinstance(found, Arrays):
        sizes, modes = [(found.images.shape[2], found.images.shape[1])] * len(found), ["RGB"] * len(found)
    else:
        chosen = np.random.default_rng(seed).choice(len(found), min(sample, len(found)), replace=False)
        sizes, modes = _decode(Reader(source, found), np.sort(chosen).tolist())
    counts = np.bincount(found.labels[found.labels != UNLABELLED], minlength=len(found.classes))
    return Report(
        images=len(found), sampled=len(sizes), sizes=tuple(Counter(sizes).most_common(NAMED)),
        smallest=min(sizes, key=_area), largest=max(sizes, key=_area), modes=dict(Counter(modes)),
        class_counts=tuple(counts.tolist()),
        empty=tuple(name for name, count in zip(found.classes, counts, strict=True) if not count),
    )  # fmt: skip


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _decode(reader: Reader, rows: Sequence[int]) -> tuple[list[tuple[int, int]], list[str]]:
    """(width, height) and mode of each. Raises DatasetError."""

    def look(i: int) -> tuple[tuple[int, int], str] | str:
        try:
            pixels, mode = reader.decoded(i)
        except ValueError as e:
            return str(e)
        return (pixels.shape[1], pixels.shape[0]), mode

    with ThreadPoolExecutor(THREADS) as pool:
        seen = list(pool.map(look, rows))
    if unreadable := [about for about in seen if isinstance(about, str)]:
        raise DatasetError("path", f"has {len(unreadable)} unreadable images in a sample of {len(rows)}: "
                                   f"{some(unreadable)}")  # fmt: skip
    good = [about for about in seen if not isinstance(about, str)]
    return [size for size, _ in good], [mode for _, mode in good]
