"""How searches look between two blocks, for whoever watches: taken without waiting for the device."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from workers.engine.rows import as_frame

SIDE = 256
"""Most pixels a side; larger images are averaged down."""


@dataclass(frozen=True)
class Glance:
    """Searches by number, the step that each is at, and their images as bytes, [n, H, W, C], on their way to the host.

    `seconds` is the processor time that it took.
    """

    numbers: Sequence[int]
    steps: Sequence[int]
    pixels: Tensor
    arrives: torch.cuda.Event | None
    seconds: float

    def data(self) -> bytes:
        """The images, one after the other; waits for them."""
        if self.arrives is not None:
            self.arrives.synchronize()
        return self.pixels.numpy().tobytes()


def glance(images_CHW: Sequence[Tensor], numbers: Sequence[int], steps: Sequence[int]) -> list[Glance]:
    """One of these images with pixels in [0, 1], of one size; none if there are no images, or the device cannot."""
    began = time.thread_time()
    if not images_CHW:
        return []
    try:
        x = torch.stack([image.permute(1, 2, 0) for image in images_CHW])  # as they lie in a lane
        if max(x.shape[1:]) > SIDE:
            x = adaptive_avg_pool2d(x.permute(0, 3, 1, 2), SIDE).permute(0, 2, 3, 1)
        shown = as_frame(x).contiguous()
        arrives = None
        if shown.is_cuda:
            pixels = torch.empty(shown.shape, dtype=shown.dtype, pin_memory=True)
            pixels.copy_(shown, non_blocking=True)
            arrives = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            arrives.record(torch.cuda.current_stream(shown.device))
            shown = pixels
    except RuntimeError:  # out of memory, or worse, which the next step meets: no result depends on this
        return []
    return [Glance(numbers, steps, shown, arrives, time.thread_time() - began)]
