"""Images of a data set as a network's input, for jobs over many of them."""

from collections.abc import Sequence

import numpy as np
import structlog
import torch
from PIL import Image
from torch import Tensor

from service import images
from service.catalog import Dataset
from service.storage import ObjectNotFound
from workers.patience import is_disk

log = structlog.get_logger()
LARGEST, SIDE = 256, 64
"""Images that a CPU attacks at once, up to that side in pixels; fewer of larger ones, more on a GPU."""
GPU = 8


def read_pixels(dataset: Dataset, places: Sequence[int], size: int, how: images.Resize) -> tuple[Tensor, list[int]]:
    """uint8 [N, 3, S, S] and the places of these N images: without those that cannot be read.

    Raises StorageError, or OSError if a disk is full or broken.
    """
    fitted, kept = [np.empty((0, size, size, 3), np.uint8)], []
    for place in places:
        try:
            image = images.fit(Image.fromarray(dataset.image(place)), size, how)
        except (ObjectNotFound, OSError, ValueError) as e:
            if is_disk(e):
                raise
            log.warning("an image cannot be read", dataset=dataset.card.name, image=place, reason=str(e))
            continue
        fitted.append(np.asarray(image)[None])
        kept.append(place)
    return torch.from_numpy(np.concatenate(fitted)).permute(0, 3, 1, 2).contiguous(), kept


def at_once(size: int, device: torch.device | str) -> int:
    """How many images of `size` x `size` an attack takes at once: for its memory, and for signs of life in between."""
    scale = GPU if torch.device(device).type == "cuda" else 1
    return max(1, min(LARGEST, scale * LARGEST * SIDE**2 // size**2))
