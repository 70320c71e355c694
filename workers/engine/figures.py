"""Pictures: tensors to PNG, and contact sheets."""

import io
import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as float32 [3, H, W] in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).to(torch.float32) / 255


def to_image(x_CHW: Tensor) -> Image.Image:
    """Pixels in [0, 1], [3, H, W], rounded to 8 bits."""
    pixels = (x_CHW.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def png(x_CHW: Tensor) -> bytes:
    """A PNG file of pixels in [0, 1], [3, H, W]."""
    return _png(to_image(x_CHW))


def sheet(frames_FCHW: Tensor) -> bytes:
    """A PNG file of uint8 frames, row by row in ceil(sqrt(F)) columns, each where its number says; black fills up."""
    count, channels, height, width = frames_FCHW.shape
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    cells = frames_FCHW.new_zeros(rows * columns, channels, height, width)
    cells[:count] = frames_FCHW
    grid = cells.view(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    return _png(Image.fromarray(grid.reshape(rows * height, columns * width, channels).numpy()))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    # Of filtered pixels, runs are all there is to find: to search for longer matches takes ten times as long.
    image.save(file, "PNG", compress_type=zlib.Z_RLE)
    return file.getvalue()


def gif(frames_FCHW: Tensor, side: int = 128, milliseconds: int = 60) -> bytes:
    """An endless animation of uint8 frames, enlarged without smoothing to at least `side` pixels; the last one stays.

    A GIF has 256 colours a frame: exact pixels are for a PNG.
    """
    factor = -(-side // frames_FCHW.shape[-1])
    frames = [
        Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()).resize(
            (factor * frame.shape[2], factor * frame.shape[1]), Image.Resampling.NEAREST
        )
        for frame in frames_FCHW
    ]
    durations = [milliseconds] * (len(frames) - 1) + [1500]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return file.getvalue()


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], captions: Sequence[str], cell: int = 128, margin: int = 8
) -> Image.Image:
    """Labelled rows of images, enlarged without smoothing to `cell` pixels; `captions` stand above the columns."""
    font = ImageFont.load_default(16)
    left = max(int(font.getlength(label)) for label, _ in rows) + 2 * margin
    top = 16 + 2 * margin
    width = left + len(captions) * (cell + margin)
    sheet = Image.new("RGB", (width, top + len(rows) * (cell + margin)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, caption in enumerate(captions):
        draw.text((left + column * (cell + margin) + cell // 2, margin), caption, "black", font, anchor="mt")
    for r, (label, images) in enumerate(rows):
        y = top + r * (cell + margin)
        draw.text((margin, y + cell // 2), label, "black", font, anchor="lm")
        for column, image in enumerate(images):
            sheet.paste(image.resize((cell, cell), Image.Resampling.NEAREST), (left + column * (cell + margin), y))
    return sheet
