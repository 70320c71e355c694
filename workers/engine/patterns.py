"""Pictures with structure but of no class, drawn at random: the out-of-distribution targets of figures 6 and 14.

A picture is float32 [3, size, size] in [0, 1], and its generator decides it: a key gives one picture at every size.
Lengths are shares of the side. What has edges is drawn `OVERSAMPLING` times larger and averaged down.
"""

import colorsys
import math
from collections.abc import Callable

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from workers.engine.figures import to_tensor

Colour = tuple[float, float, float]
Point = tuple[float, float]

OVERSAMPLING = 4
WAVES = 4
"""The highest frequency of `blobs`, in cycles per side."""
CHARACTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabdefghkmnpqrstuwxyz23456789&?#@"


def pattern(kind: str, size: int, generator: torch.Generator) -> Tensor:
    """A random picture of one of `KINDS`, [3, size, size]; raises ValueError for any other kind."""
    if kind not in KINDS:
        raise ValueError(f"no pattern of kind {kind!r}; the kinds are {', '.join(KINDS)}")
    return KINDS[kind](size, generator)


def stripes(size: int, generator: torch.Generator) -> Tensor:
    """Two colours in parallel bands of any direction, both of one width."""
    u, _ = _turned(size * OVERSAMPLING, generator)
    period, phase = _uniform(0.2, 0.5, generator), _uniform(0, 1, generator)
    return _two_coloured((u / period + phase) % 1 < 0.5, generator)


def checkerboard(size: int, generator: torch.Generator) -> Tensor:
    """Two colours in the squares of a grid of any direction."""
    u, v = _turned(size * OVERSAMPLING, generator)
    cell, phase = _uniform(0.12, 0.28, generator), _uniform(0, 1, generator)
    return _two_coloured(((u / cell + phase).floor() + (v / cell + phase).floor()) % 2 < 1, generator)


def gradient(size: int, generator: torch.Generator) -> Tensor:
    """One colour passing linearly into another, in any direction, from end to end of the picture."""
    u, _ = _turned(size, generator)
    share = (u - u.min()) / (u.max() - u.min())
    return _between(share, generator)


def circles(size: int, generator: torch.Generator) -> Tensor:
    """5 to 9 discs of as many colours, large ones below small ones."""
    image, draw, colours = _canvas(size, 9, generator)
    for radius in sorted(_uniforms(_integer(5, 9, generator), 0.07, 0.3, generator), reverse=True):
        x, y = _uniforms(2, 0, 1, generator)
        box = [c * image.width for c in (x - radius, y - radius, x + radius, y + radius)]
        draw.ellipse(box, fill=_rgb(colours.pop()))
    return _reduced(image, size)


def polygons(size: int, generator: torch.Generator) -> Tensor:
    """5 to 9 triangles of as many colours, large ones below small ones."""
    image, draw, colours = _canvas(size, 9, generator)
    for radius in sorted(_uniforms(_integer(5, 9, generator), 0.15, 0.5, generator), reverse=True):
        x, y, start = _uniforms(3, 0, 1, generator)
        # Corners are at least a sixth of a turn apart, so that no triangle is a sliver.
        turns = [start + i / 3 + wobble for i, wobble in enumerate(_uniforms(3, -1 / 12, 1 / 12, generator))]
        corners = [(x + radius * math.cos(math.tau * t), y + radius * math.sin(math.tau * t)) for t in turns]
        draw.polygon(_scaled(corners, image.width), fill=_rgb(colours.pop()))
    return _reduced(image, size)


def blobs(size: int, generator: torch.Generator) -> Tensor:
    """Smooth noise in each channel, with amplitudes of 1 / frequency up to `WAVES` cycles per side."""
    k = torch.arange(-WAVES, WAVES + 1, dtype=torch.float64)
    frequency = torch.hypot(k[:, None], k[None, :])
    amplitude = torch.where((frequency > 0) & (frequency <= WAVES), 1 / frequency.clamp_min(1), 0)
    shape = (2, 3, *amplitude.shape)
    real, imaginary = torch.randn(shape, generator=generator, dtype=torch.float64) * amplitude
    position = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    # 0.7 of a period across the picture, so that its opposite edges need not meet.
    wave = torch.exp(0.7j * math.tau * k[:, None] * position)
    noise = torch.einsum("cij,iy,jx->cyx", torch.complex(real, imaginary), wave, wave).real
    spread = noise.std(dim=(1, 2), keepdim=True)
    return torch.sigmoid(2 * (noise - noise.mean(dim=(1, 2), keepdim=True)) / spread).float()


def scribbles(size: int, generator: torch.Generator) -> Tensor:
    """3 to 5 thick curves of as many colours, each a sum of slow waves."""
    image, draw, colours = _canvas(size, 5, generator)
    for _ in range(_integer(3, 5, generator)):
        radius = _uniform(0.025, 0.05, generator) * image.width
        points, colour = _scaled(_curve(generator), image.width), _rgb(colours.pop())
        for x, y in points:
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
    return _reduced(image, size)


def text(size: int, generator: torch.Generator) -> Tensor:
    """2 or 3 lines of as many random characters each, in Pillow's own font, over one colour."""
    image, draw, inks = _canvas(size, 3, generator)
    lines = _integer(2, 3, generator)
    cell = image.width / lines
    font = ImageFont.load_default(1.15 * cell)
    for row in range(lines):
        for column in range(lines):
            character = CHARACTERS[_integer(0, len(CHARACTERS) - 1, generator)]
            x, y = _uniforms(2, -0.06, 0.06, generator)
            centre = ((column + 0.5 + x) * cell, (row + 0.5 + y) * cell)
            ink = _rgb(inks[_integer(0, len(inks) - 1, generator)])
            draw.text(centre, character, ink, font, anchor="mm", stroke_width=round(cell / 40), stroke_fill=ink)
    return _reduced(image, size)


KINDS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "stripes": stripes,
    "checkerboard": checkerboard,
    "gradient": gradient,
    "circles": circles,
    "polygons": polygons,
    "blobs": blobs,
    "scribbles": scribbles,
    "text": text,
}
"""Every kind of picture, by name."""


def _uniforms(n: int, low: float, high: float, generator: torch.Generator) -> list[float]:
    drawn: list[float] = torch.rand(n, generator=generator, dtype=torch.float64).tolist()
    return [low + (high - low) * u for u in drawn]


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return _uniforms(1, low, high, generator)[0]


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    """From `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _palette(n: int, generator: torch.Generator) -> list[Colour]:
    """A ground, light or dark, and n - 1 colours that stand out from it, their hues far apart."""
    light, hue = _integer(0, 1, generator) == 1, _uniform(0, 1, generator)
    saturations, values = _uniforms(n, 0, 1, generator), _uniforms(n, 0, 1, generator)
    ground = (0.1 + 0.4 * saturations[0], 0.9 + 0.1 * values[0]) if light else (0.6 + 0.4 * saturations[0], 0.15)
    colours = [colorsys.hsv_to_rgb(hue, *ground)]
    for i, (s, v) in enumerate(zip(saturations[1:], values[1:], strict=True), start=1):
        # Multiples of the golden section never crowd on the circle.
        turn = (hue + i * (math.sqrt(5) - 1) / 2) % 1
        strong = (0.8 + 0.2 * s, 0.4 + 0.35 * v) if light else (0.4 + 0.5 * s, 0.85 + 0.15 * v)
        colours.append(colorsys.hsv_to_rgb(turn, *strong))
    return colours


def _turned(side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The two coordinates of each pixel, [side, side], about the centre along axes of a random direction."""
    angle = _uniform(0, math.tau, generator)
    along = (torch.arange(side, dtype=torch.float64) + 0.5) / side - 0.5
    y, x = along[:, None], along[None, :]
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def _between(share: Tensor, generator: torch.Generator) -> Tensor:
    """Two random colours mixed by a share of the first, [side, side]."""
    first, second = (torch.tensor(c, dtype=torch.float64)[:, None, None] for c in _palette(2, generator))
    return (share * first + (1 - share) * second).float()


def _two_coloured(mask: Tensor, generator: torch.Generator) -> Tensor:
    share = F.avg_pool2d(mask.double()[None], OVERSAMPLING)[0]
    return _between(share, generator)


def _canvas(size: int, n: int, generator: torch.Generator) -> tuple[Image.Image, ImageDraw.ImageDraw, list[Colour]]:
    """A canvas `OVERSAMPLING` times the size, of a random ground, and n colours to draw on it."""
    ground, *colours = _palette(n + 1, generator)
    image = Image.new("RGB", (size * OVERSAMPLING, size * OVERSAMPLING), _rgb(ground))
    return image, ImageDraw.Draw(image), colours


def _reduced(image: Image.Image, size: int) -> Tensor:
    return to_tensor(image.resize((size, size), Image.Resampling.BOX))


def _rgb(colour: Colour) -> tuple[int, int, int]:
    r, g, b = (round(255 * c) for c in colour)
    return r, g, b


def _scaled(points: list[Point], side: int) -> list[Point]:
    return [(x * side, y * side) for x, y in points]


def _curve(generator: torch.Generator, n: int = 400) -> list[Point]:
    """n points in order along a smooth curve through the picture."""
    length = _uniform(0.5, 0.9, generator)
    t = length * torch.arange(n, dtype=torch.float64) / n
    coordinates = []
    for _ in range(2):
        wave = torch.full_like(t, _uniform(0.4, 0.6, generator))
        for k, size in ((1, 0.32), (2, 0.16), (3, 0.08)):
            wave += size * torch.sin(math.tau * (k * t + _uniform(0, 1, generator)))
        coordinates.append(wave.tolist())
    return list(zip(*coordinates, strict=True))
