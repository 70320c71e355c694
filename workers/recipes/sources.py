"""Where the pictures of a study come from: data sets, uploads, patterns, noise, gray, and blends of two."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from service import images
from service.errors import InvalidInput
from service.models import Item
from service.storage import Storage, image_key
from service.studies import StudyParameters
from workers.engine import figures, patterns
from workers.engine.seeding import generator
from workers.runtime import Runtime


def read(runtime: Runtime, p: StudyParameters, source: dict[str, Any], restart: int = 0) -> Tensor:
    """One image [3, S, S] in [0, 1] from where the item's plan says. Raises ObjectNotFound, OSError or ValueError."""
    size = runtime.catalog.models[p.model].input_size
    match source["source"]:
        case "noise":
            noise = torch.randn(3, size, size, generator=generator(p.seed, source["draw"], restart))
            return (float(source["mean"]) + float(source["std"]) * noise).clamp(0, 1)
        case "gray":
            return torch.full((3, size, size), float(source["level"]))
        case "pattern":
            return patterns.pattern(source["pattern"], size, generator(source["seed"], source["number"]))
        case "blend":
            first, second = read(runtime, p, source["first"]), read(runtime, p, source["second"])
            return torch.lerp(second, first, float(source["lambda"]))
        case "dataset":
            return fitted(runtime.catalog.datasets[source["dataset"]].image(source["index"]), size, p)
    if source["source"] == "object":  # nobody has looked at it yet
        data = bounded(runtime.storage, source["key"], runtime.settings.max_body_bytes)
        checked(data, size, runtime.settings.max_image_pixels, p)
    else:
        data = runtime.storage.get(image_key(source["image"]))
    if images.is_tensor(data):
        return torch.from_numpy(images.tensor(data).astype(np.float32))
    return figures.to_tensor(images.fit(images.decode(data), size, p.resize))


def bounded(storage: Storage, key: str, most: int) -> bytes:
    """An object of at most so many bytes. Raises ValueError before it is read if it is larger."""
    size = storage.stat(key)
    if size > most:
        raise ValueError(f"{key} has {size:,} bytes; allowed: {most:,}")
    return storage.get_range(key, 0, size)


def checked(data: bytes, size: int, most_pixels: int, p: StudyParameters) -> None:
    """Raises ValueError for what would have been refused as an upload, or for this job."""
    try:
        found = images.check(data, most_pixels)
    except InvalidInput as e:
        raise ValueError("; ".join(error.message for error in e.errors)) from e
    if images.is_tensor(data) and (found.width, found.height) != (size, size):
        raise ValueError(f"is a tensor of {found.width} x {found.height}; {p.model} takes {size} x {size}")


def named(item: Item) -> dict[str, dict[str, Any]]:
    """Every picture that an item is made of, by name: its start; its target, where that is a picture; a pair's ends."""
    pictures = {"start": {"draw": item.index, **item.start}}
    if item.target["source"] != "direction":
        pictures["target"] = item.target
    if item.target["source"] == "blend":
        pictures |= {end: item.target[end] for end in ("first", "second")}
    return pictures


def fitted(pixels_HWC: Any, size: int, p: StudyParameters) -> Tensor:
    """A data set's image at the model's size, [3, S, S]."""
    return figures.to_tensor(images.fit(Image.fromarray(pixels_HWC), size, p.resize))


def stack(images_CHW: list[Tensor], device: torch.device) -> Tensor:
    """[N, 3, S, S] on the device."""
    return torch.stack(images_CHW).to(device, memory_format=torch.channels_last)
